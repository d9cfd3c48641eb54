"""Clipping: the share of a recording's samples that lie at its own limits."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float

_LIMIT = 1 - 4e-4
"""Samples from this share of the extreme on count as equal to it: 16-bit rounding after a change of gain moves them."""


def clipped_share(samples: Float[np.ndarray, "C N"]) -> float:
    """Return the share of samples that are clipped, 0 to 1; of several channels, that of the worst.

    A sample is clipped if it lies at the highest or the lowest value of its channel and a neighbour does, too: a wave
    that was cut has plateaus, also after its gain was changed, and one that was not has single peaks. (A plateau of one
    sample is missed; a pure tone below a tenth of the sample rate has peaks as flat as plateaus.) Clipping before a
    lossy codec or a filter leaves no plateaus and is not found.

    Args:
        samples: Channels, all finite, full scale or not.
    """
    return max((_of_channel(channel) for channel in samples), default=0.0)


def _of_channel(samples: Float[np.ndarray, " N"]) -> float:
    if not len(samples) or samples.min() == samples.max():
        return 0.0
    high, low = float(samples.max()), float(samples.min())
    clipped = np.zeros(len(samples), dtype=bool)
    if high > 0:
        clipped |= _in_plateaus(samples >= high * _LIMIT)
    if low < 0:
        clipped |= _in_plateaus(samples <= low * _LIMIT)
    return float(np.count_nonzero(clipped)) / len(samples)


def _in_plateaus(at_limit: Bool[np.ndarray, " N"]) -> Bool[np.ndarray, " N"]:
    """Keep the marks that have a marked neighbour."""
    beside = np.zeros_like(at_limit)
    beside[1:] |= at_limit[:-1]
    beside[:-1] |= at_limit[1:]
    kept: Bool[np.ndarray, " N"] = at_limit & beside
    return kept
