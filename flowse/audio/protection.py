"""Never worse than the input: how much of the recording to leave in, judged from what enhancement took out of it."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Float32

PROTECTIONS = ("none", "listening", "asr")
"""For whom: nobody; a listener, who wants a clean recording left as it is; a recogniser, which distortion hurts more
than noise does."""

# Share of the input that is left in at a given ratio of what was kept to what was taken out, in dB; linear between.
_SHARES: dict[str, tuple[tuple[float, float], ...]] = {
    "listening": ((25.0, 0.0), (40.0, 1.0)),
    "asr": ((-5.0, 0.15), (2.0, 0.4), (12.0, 0.7), (20.0, 1.0)),
}


def input_share(
    noisy: Float[np.ndarray, "B N"], enhanced: Float[np.ndarray, "B N"], protection: str
) -> Float32[np.ndarray, " B"]:
    """Say how much of the input to mix with what was made of it, 0…1 a recording.

    The ratio of the power that was kept to the power that was taken out estimates the SNR. Where it is high there was
    little to gain; mixing the input back in ("observation adding": Iwamoto et al., 2022) lowers the distortion that
    recognisers suffer from.

    Args:
        noisy: Recordings.
        enhanced: What was made of them, aligned to the sample.
        protection: One of `PROTECTIONS`.

    Raises:
        ValueError: The protection is not known.
    """
    if protection not in PROTECTIONS:
        raise ValueError(f"protect={protection!r} must be one of {', '.join(PROTECTIONS)}")
    if protection == "none":
        return np.zeros(len(noisy), np.float32)
    kept = np.square(enhanced, dtype=np.float64).mean(axis=1)
    taken = np.square(noisy - enhanced, dtype=np.float64).mean(axis=1)
    ratio = 10 * np.log10((kept + 1e-20) / (taken + 1e-20))
    places, shares = zip(*_SHARES[protection], strict=True)
    return np.asarray(np.interp(ratio, places, shares), np.float32)
