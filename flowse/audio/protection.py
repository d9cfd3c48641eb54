"""Never worse than the input: how much of the recording to leave in, judged from what enhancement took out of it."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Float32

PROTECTIONS = ("none", "listening", "asr")
"""For whom: nobody; a listener, who wants a clean recording left as it is; a recogniser, which distortion hurts more
than noise does."""

BLOCK_S, AROUND_S = 0.1, 2.0
"""The share is decided every `BLOCK_S` seconds, from the `AROUND_S` seconds around."""

# Share of the input that is left in at a given ratio of what was kept to what was taken out, in dB; linear between.
# `python -m tests.benchmarks.protect` prints what constant shares cost and give; docs/measured.md has the choice.
_SHARES: dict[str, tuple[tuple[float, float], ...]] = {
    "listening": ((25.0, 0.0), (40.0, 1.0)),
    "asr": ((7.0, 0.2), (12.0, 0.45), (16.0, 0.7), (25.0, 1.0)),
}


def input_share(
    noisy: Float[np.ndarray, "B N"], enhanced: Float[np.ndarray, "B N"], protection: str, rate: int
) -> Float32[np.ndarray, "B N"]:
    """Say how much of the input to mix with what was made of it, 0…1 a sample.

    The ratio of the power that was kept to the power that was taken out estimates the SNR, of the two seconds around:
    a recording may be clean here and noisy there. Where it is high there was little to gain; mixing the input back in
    ("observation adding": Iwamoto et al., 2022) lowers the distortion that recognisers suffer from.

    Args:
        noisy: Recordings.
        enhanced: What was made of them, aligned to the sample.
        protection: One of `PROTECTIONS`.
        rate: Sample rate, in Hz.

    Raises:
        ValueError: The protection is not known.
    """
    if protection not in PROTECTIONS:
        raise ValueError(f"protect={protection!r} must be one of {', '.join(PROTECTIONS)}")
    if protection == "none" or not noisy.size:
        return np.zeros(noisy.shape, np.float32)
    starts = np.arange(0, noisy.shape[1], max(1, round(BLOCK_S * rate)))
    kept, taken = (_around(samples, starts) for samples in (enhanced, noisy - enhanced))
    ratio = 10 * np.log10((kept + 1e-20) / (taken + 1e-20))
    places, shares = zip(*_SHARES[protection], strict=True)
    ends = np.append(starts[1:], noisy.shape[1])
    middles, samples = (starts + ends - 1) / 2, np.arange(noisy.shape[1])
    return np.stack([np.interp(samples, middles, np.interp(row, places, shares)) for row in ratio]).astype(np.float32)


def _around(samples: Float[np.ndarray, "B N"], starts: np.ndarray) -> np.ndarray:
    """Return the mean power around each block; what lies beyond an end is the recording mirrored."""
    power = np.add.reduceat(np.square(samples, dtype=np.float64), starts, axis=1)
    mean = power / np.diff(np.append(starts, samples.shape[1]))
    # As scipy.ndimage.uniform_filter1d does it; the library alone has no SciPy.
    width = round(AROUND_S / BLOCK_S)
    mirrored = np.pad(mean, ((0, 0), (width // 2, width - 1 - width // 2)), "symmetric")
    around: np.ndarray = np.lib.stride_tricks.sliding_window_view(mirrored, width, axis=1).mean(axis=-1)
    return around
