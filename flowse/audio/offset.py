"""A constant offset (DC) of a recording: converters leave one; nobody hears it, and it counts as no level."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

OFFSET_SHARE = 0.01
"""An offset with a smaller share of the power is left alone: it changes a level by 0.04 dB at most.

The mean of an excerpt is never exactly 0, and sound of a very low frequency must not be taken for an offset.
"""


def offset_of(samples: Float[np.ndarray, " N"], share: float = OFFSET_SHARE) -> float:
    """Return the mean of the samples if it makes up more than `share` of their power; otherwise exactly 0.

    Args:
        samples: One channel; the offset of fewer than two samples, or of samples that are not finite, is 0.
        share: Between 0 and 1.
    """
    if samples.size < 2:
        return 0.0
    # Two passes in the samples' own precision; the sum of squares does not use BLAS, as everywhere in this package.
    rough = float(samples.mean())
    power = float(np.einsum("i,i->", samples, samples)) / samples.size
    if not rough * rough > share * power:
        return 0.0
    return float(samples.mean(dtype=np.float64))


def without_offset(samples: Float[np.ndarray, " N"], share: float = OFFSET_SHARE) -> Float[np.ndarray, " N"]:
    """Subtract the offset; samples without one are returned as they are, not copied."""
    offset = offset_of(samples, share)
    return samples if offset == 0.0 else samples - samples.dtype.type(offset)
