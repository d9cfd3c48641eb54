"""Signal-to-noise ratio of speech, estimated without a reference (WADA-SNR).

Source: C. Kim and R. M. Stern, "Robust signal-to-noise ratio estimation based on waveform amplitude distribution
analysis", Interspeech 2008.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from jaxtyping import Float

from flowse.audio.offset import without_offset

LOWEST_DB, HIGHEST_DB = -20.0, 100.0
"""Range of the estimate, in dB, as in the authors' own tables."""

_SHAPE = 0.4
"""Shape of the gamma distribution of the amplitudes of clean speech (the paper's section 2)."""

_SILENCE_S = 0.005
"""Zeros that last longer, in seconds, are digital silence and tell nothing about noise."""


def snr_db(samples: Float[np.ndarray, " N"], sample_rate: int) -> float:
    """Estimate the SNR of speech in noise, in dB between `LOWEST_DB` and `HIGHEST_DB`.

    The amplitudes of clean speech are taken to have a gamma distribution and those of noise a normal one; then
    G = ln E|z| − E ln|z| of the sum depends on the SNR alone, and on no gain. Noise that is not normal (music, other
    voices, clicks) passes for speech: the estimate says how much steady noise there is.

    Args:
        samples: One channel, all finite.
        sample_rate: In Hz.

    Returns:
        The estimate; `LOWEST_DB` for silence.
    """
    amplitudes = np.abs(_without_silence(without_offset(samples), sample_rate)).astype(np.float64)
    if not amplitudes.any():
        return LOWEST_DB
    # A zero is what rounding made of less than half a step: ln of it is, on average, ln(step / 2) − 1.
    step = float(amplitudes[amplitudes > 0].min())
    logs = np.log(np.where(amplitudes > 0, amplitudes, step / 2 / math.e))
    statistic = math.log(float(amplitudes.mean())) - float(logs.mean())
    snrs, statistics = _table()
    return float(np.interp(statistic, statistics, snrs))


def _without_silence(samples: Float[np.ndarray, " N"], sample_rate: int) -> Float[np.ndarray, " M"]:
    """Leave out the runs of zeros that are longer than `_SILENCE_S`."""
    nonzero = np.flatnonzero(samples)
    edges = np.concatenate(([-1], nonzero, [len(samples)]))
    gaps = np.diff(edges) - 1
    longest = max(1, round(_SILENCE_S * sample_rate))
    keep = np.ones(len(samples), dtype=bool)
    for place in np.flatnonzero(gaps > longest):
        keep[edges[place] + 1 : edges[place + 1]] = False
    return samples[keep]


@lru_cache(maxsize=1)
def _table() -> tuple[Float[np.ndarray, " snrs"], Float[np.ndarray, " snrs"]]:
    """Return SNRs in dB, a dB apart, and G of each: computed from the model instead of drawn, as the paper's was."""
    from scipy.special import gammaincinv

    # Speech by its quantiles; x ~ gamma(0.4) with power E x² = shape · (shape + 1).
    quantiles = (np.arange(20_000) + 0.5) / 20_000
    speech = gammaincinv(_SHAPE, quantiles) / math.sqrt(_SHAPE * (_SHAPE + 1))
    snrs = np.arange(LOWEST_DB, HIGHEST_DB + 1)
    statistics = []
    for snr in snrs:
        noise = 10 ** (-snr / 20)
        means, logs = _of_shifted_normal(speech / noise)
        statistics.append(math.log(float(means.mean())) - float(logs.mean()))
    return snrs, np.maximum.accumulate(np.array(statistics))


def _of_shifted_normal(
    shifts: Float[np.ndarray, " n"],
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """Return E|μ + n| and E ln|μ + n| of a standard normal n for each shift μ ≥ 0.

    The second is −(γ + ln 2) / 2 at μ = 0, and its derivative is √2 · D(μ / √2) with Dawson's integral D.
    """
    from scipy.special import dawsn, erf

    means = np.sqrt(2 / np.pi) * np.exp(-np.square(shifts) / 2) + shifts * erf(shifts / math.sqrt(2))
    grid = np.linspace(0.0, 40.0, 8001)
    slopes = math.sqrt(2) * dawsn(grid / math.sqrt(2))
    areas = np.concatenate(([0.0], np.cumsum((slopes[1:] + slopes[:-1]) / 2) * (grid[1] - grid[0])))
    near = np.interp(np.minimum(shifts, grid[-1]), grid, areas) - (np.euler_gamma + math.log(2)) / 2
    far = np.log(np.maximum(shifts, grid[-1])) - 1 / (2 * np.square(np.maximum(shifts, grid[-1])))
    return means, np.where(shifts < grid[-1], near, far)
