"""Bandwidth of a recording: the upper edge of the band that its spectrum occupies.

A call of 8 kHz that was uploaded at 16 kHz has nothing above 4 kHz; an enhancement model must not learn that clean
speech sounds like that.
"""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float

from flowse.audio.offset import without_offset

FRAME_S = 0.032
"""Length of the frames of the spectrum, in seconds: bins are about 31 Hz apart."""

RANGE_DB = 60.0
"""A frequency is occupied if its level is less than this far below that of the strongest frequency."""

_SHARE = 0.05
"""The level of a frequency is the one that this share of the frames exceeds: fricatives are rare, clicks are rarer."""

_ACTIVE_DB = 40.0
"""Frames this far below the loudest frame are pauses: they hold no speech whose band could be seen."""

_LOWEST_HZ = 70.0
"""Hum and offset below this frequency, in Hz, are no reference for the level of speech."""

_WINDOW = (0.35875, -0.48829, 0.14128, -0.01168)
"""Blackman–Harris: its side lobes are 92 dB down, so that a strong frequency does not seem to occupy its neighbours."""

_MOST_FRAMES = 4096
"""Of a longer recording (about a minute), so many frames at equal distances are taken."""


def bandwidth_hz(samples: Float[np.ndarray, " N"], sample_rate: int) -> float:
    """Return the upper edge of the occupied band, in Hz; 0 for silence.

    That is the highest frequency whose level lies less than `RANGE_DB` below that of the strongest frequency, as in
    Bakhturina et al., "Hi-Fi Multi-Speaker English TTS Dataset", Interspeech 2021 (and in the URGENT challenges). They
    take 50 dB below the peak of the mean spectrum, which misses the fricatives of quiet voices; and in a mean, a few
    clipped samples fill the whole band, so a level here is one that 5 % of the frames exceed. It depends on no gain.
    A resampler that leaves images above the old band (linear interpolation) hides the edge, and so does broadband noise
    that was added after the band was cut.

    Args:
        samples: One channel, all finite.
        sample_rate: In Hz.
    """
    size = max(16, 2 * round(FRAME_S * sample_rate / 2))
    spectrum = _spectrum(without_offset(samples), size)
    spectrum[: math.ceil(_LOWEST_HZ * size / sample_rate)] = 0.0
    peak = float(spectrum.max(initial=0.0))
    if peak <= 0:
        return 0.0
    highest = int(np.flatnonzero(spectrum > peak * 10 ** (-RANGE_DB / 10))[-1])
    return highest * sample_rate / size


def _spectrum(samples: Float[np.ndarray, " N"], size: int) -> Float[np.ndarray, " bins"]:
    """Return the power of each frequency that `_SHARE` of the frames exceed; pauses are left out, frames overlap."""
    padded = np.pad(samples, (0, max(0, size - len(samples))))
    frames = np.lib.stride_tricks.sliding_window_view(padded, size)[:: size // 2]
    energies = np.einsum("ij,ij->i", frames, frames, dtype=np.float64)
    active = np.flatnonzero(energies > energies.max(initial=0.0) * 10 ** (-_ACTIVE_DB / 10))
    if not len(active):
        return np.zeros(size // 2 + 1)
    phase = 2 * np.pi * np.arange(size) / size
    window = sum(weight * np.cos(order * phase) for order, weight in enumerate(_WINDOW))
    chosen = active[:: -(-len(active) // _MOST_FRAMES)]
    powers = np.square(np.abs(np.fft.rfft(frames[chosen] * window, axis=1)))
    spectrum: Float[np.ndarray, " bins"] = np.quantile(powers, 1 - _SHARE, axis=0)
    return spectrum
