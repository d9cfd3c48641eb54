"""Cut recordings into windows as long as Whisper's encoder takes, at quiet points; importable without torch."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from jaxtyping import Float32

from flowse.audio.activity import frame_levels

SAMPLE_RATE = 16000
"""Sampling rate of Whisper's input, in Hz."""

_SEARCH_S = 8.0
_SHORTEST_TAIL_S = 1.0


def split_windows(
    waveform: Float32[np.ndarray, " N"], longest: int, sample_rate: int = SAMPLE_RATE
) -> list[tuple[int, int]]:
    """Cut a recording into consecutive stretches of at most `longest` samples, at its quietest points.

    Args:
        waveform: Mono samples.
        longest: Most samples of a stretch.
        sample_rate: In Hz.

    Returns:
        (start, stop) in samples: together they cover every sample exactly once, in order. No stretch but
        that of a short recording is shorter than a second (or than an eighth of `longest`).
    """
    total = len(waveform)
    tail = min(round(_SHORTEST_TAIL_S * sample_rate), longest // 8)
    search = min(round(_SEARCH_S * sample_rate), longest // 2)
    cuts = [0]
    while total - cuts[-1] > longest:
        latest = min(cuts[-1] + longest, total - tail)
        earliest = max(cuts[-1] + longest - search, cuts[-1] + 1)
        cuts.append(quietest_point(waveform, min(earliest, latest - 1), latest, sample_rate))
    cuts.append(total)
    return list(pairwise(cuts)) if total else []


def quietest_point(waveform: Float32[np.ndarray, " N"], first: int, last: int, sample_rate: int = SAMPLE_RATE) -> int:
    """Return the middle of the quietest tenth of a second of [first, last); of the latest, if several are.

    The point lies in (first, last], so that a cut there always leaves something on its left.

    Args:
        waveform: Mono samples.
        first: In samples.
        last: In samples.
        sample_rate: In Hz.
    """
    frame_s = 0.02
    levels = frame_levels(waveform[first:last], sample_rate, frame_s)
    width = min(5, len(levels))
    power = np.convolve(10 ** (levels / 10), np.ones(width), mode="valid")
    quietest = len(power) - 1 - int(np.argmin(power[::-1]))
    middle = first + round((quietest + width / 2) * frame_s * sample_rate)
    return min(max(middle, first + 1), last)
