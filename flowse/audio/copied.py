"""Speech that a broken copy left: half of it is missing, or one stretch of it stands again and again."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float32

from flowse.refusal import Refusal

_LEAST_S = 1.0
_LEAST_TILE_S = 0.25
"""What repeats itself faster is a tone."""
_EXCERPT = 64
_TILED_SHARE = 0.9
_TONE_SHARE = 0.9


def refuse_copied(samples: Float32[np.ndarray, " N"], rate: int, name: str) -> None:
    """Refuse speech of which half or more is one run of exact zeros, or that repeats one stretch sample by sample.

    Recordings are never so: a download that ended early leaves zeros, a stuck buffer leaves tiles. Whisper invents a
    text for both.

    Args:
        samples: One channel.
        rate: Sample rate, in Hz.
        name: The recording's name in the message.

    Raises:
        Refusal: `half_zero` or `repeated_tile`.
    """
    zeros = _zeros_around_middle(samples)
    if zeros >= _LEAST_S * rate and 2 * zeros >= samples.size:
        raise Refusal(
            "half_zero",
            f"{name}: {zeros / rate:.1f} of {samples.size / rate:.1f} s are one run of exact zeros; fetch it again",
        )
    if tile := tile_of(samples, rate):
        raise Refusal(
            "repeated_tile",
            f"{name}: the same {tile / rate:.2f} s over and over for {samples.size / rate:.1f} s; fetch it again",
        )


def _zeros_around_middle(samples: Float32[np.ndarray, " N"]) -> int:
    """Return the length of the run of zeros at the middle: a run of half of the samples cannot avoid it."""
    middle = samples.size // 2
    if not samples.size or samples[middle]:
        return 0
    before, after = np.flatnonzero(samples[:middle]), np.flatnonzero(samples[middle:])
    begin = int(before[-1]) + 1 if before.size else 0
    end = middle + int(after[0]) if after.size else samples.size
    return end - begin


def _is_tone(excerpt: Float32[np.ndarray, " N"]) -> bool:
    """Whether sound is periodic, so that it repeats itself without having been copied."""
    size = len(excerpt)
    spectrum = np.fft.rfft(excerpt, 2 * size)
    correlation = np.fft.irfft(np.abs(spectrum) ** 2)[: size // 2]
    overlap = 1 - np.arange(size // 2) / size
    normalised = correlation / overlap
    rising = int(np.argmax(normalised < 0))  # the first lags belong to the peak at 0
    return not rising or bool(normalised[rising:].max() > _TONE_SHARE * normalised[0])


def tile_of(samples: Float32[np.ndarray, " N"], rate: int) -> int:
    """Return after how many samples a recording repeats itself exactly, three times or more; 0 if it does not.

    Args:
        samples: One channel.
        rate: Sample rate, in Hz.
    """
    third = samples.size // 3
    if third < _LEAST_TILE_S * rate:
        return 0
    # The loudest sample is in no pause: what stands around it stands nowhere else by chance.
    loudest = min(int(np.abs(samples[:third]).argmax()), samples.size - _EXCERPT)
    content = np.ascontiguousarray(samples).tobytes()
    excerpt = content[loudest * 4 : (loudest + _EXCERPT) * 4]
    at = loudest * 4
    while (at := content.find(excerpt, at + 4)) >= 0 and at % 4:
        continue
    if at < 0:
        return 0
    lag = at // 4 - loudest
    if not _LEAST_TILE_S * rate <= lag <= third or _is_tone(samples[: round(_LEAST_TILE_S * rate)]):
        return 0
    same = float(np.mean(samples[lag:] == samples[:-lag]))
    return lag if same >= _TILED_SHARE else 0
