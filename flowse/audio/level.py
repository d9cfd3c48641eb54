"""Levels: how loud samples are, all of them or their active parts, and samples brought to a level."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float

from flowse.audio.offset import without_offset

ACTIVITY_MARGIN_DB = 15.9
"""A frame counts as active down to this far below the active level (ITU-T P.56)."""


def power_db(power: float) -> float:
    """Return a power relative to full scale in dB; −inf for none."""
    return 10 * math.log10(power) if power > 0 else -math.inf


def level_dbfs(samples: Float[np.ndarray, " N"]) -> float:
    """Return the RMS level in dB relative to full scale (a square wave of ±1 has 0 dBFS); −inf for silence.

    A constant offset counts as no level (`flowse.audio.offset`).
    """
    if not samples.size:
        return -math.inf
    samples = without_offset(samples)
    length = 1024
    whole = samples.size // length * length
    rest = samples[whole:].astype(np.float64)
    return power_db(
        (float(_frame_powers(samples, length).sum()) * length + float(np.square(rest).sum())) / samples.size
    )


def active_level_dbfs(samples: Float[np.ndarray, " N"], rate: int, frame_s: float = 0.02) -> float:
    """Return the RMS level of the active parts of a recording, in dBFS; −inf for silence.

    Pauses do not count: appended silence leaves the level unchanged. Neither does a constant offset. As in ITU-T P.56,
    the active level is the level over the frames that lie less than `ACTIVITY_MARGIN_DB` below it; an iteration that
    only raises the level finds it.

    Args:
        samples: One channel.
        rate: Sample rate, in Hz.
        frame_s: Length of a frame, in seconds; an incomplete last frame is left out.
    """
    length = max(1, round(frame_s * rate))
    count = samples.size // length
    if not count:
        return level_dbfs(samples)
    samples = without_offset(samples)
    powers = _frame_powers(samples, length)
    level = float(powers.mean())
    while True:
        # The threshold only ever rises, so there are at most as many iterations as frames (a few, in practice).
        active = powers[powers > level * 10 ** (-ACTIVITY_MARGIN_DB / 10)]
        if not active.size or float(active.mean()) <= level:
            return power_db(level)
        level = float(active.mean())


def _frame_powers(samples: Float[np.ndarray, " N"], length: int) -> Float[np.ndarray, " frames"]:
    """Return the mean square of each frame of `length` samples; an incomplete last frame is left out."""
    frames = samples[: samples.size // length * length].reshape(-1, length)
    # float32 is precise enough for about 1,000 samples and 4x faster than float64. einsum does not call BLAS here,
    # whose sums depend on its number of threads.
    powers: Float[np.ndarray, " frames"] = np.einsum("ij,ij->i", frames, frames).astype(np.float64) / length
    return powers


def set_level(samples: Float[np.ndarray, " N"], dbfs: float) -> Float[np.ndarray, " N"]:
    """Scale samples to an RMS level in dBFS; the peaks of the result may exceed ±1.

    Raises:
        ValueError: The samples are silent: no gain makes them louder.
    """
    level = level_dbfs(samples)
    if level == -math.inf:
        raise ValueError("silence cannot be brought to a level; see check()")
    return (samples * 10 ** ((dbfs - level) / 20)).astype(samples.dtype)
