"""Intrusive scores: enhanced speech compared with its clean recording, by ESTOI, PESQ and SI-SDR.

All of them compare sample with sample. The output of a generative model need not be aligned with the reference, so the
lag is measured too: where it is not zero, or the alignment is low, the scores say little.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from flowse.audio.waveform import resample

RATE = 16_000
"""PESQ-WB is defined at this rate (ITU-T P.862.2), in Hz; all scores here are computed at it."""

_FLOOR = 1e-10
"""Smallest ratio of powers in SI-SDR, which therefore ends at ±100 dB instead of infinity."""


@dataclass(frozen=True, kw_only=True)
class IntrusiveScore:
    """Scores of an estimate against its reference.

    Attributes:
        estoi: Extended short-time objective intelligibility (Jensen & Taal 2016), about 0 to 1.
        pesq_wb: Wideband PESQ (P.862.2), 1.04 to 4.64.
        si_sdr_db: Scale-invariant signal-to-distortion ratio (Le Roux et al. 2019).
        lag_ms: Lag of the estimate in milliseconds, negative if it comes early. It is the lag of the waveforms where
            they correlate (`alignment` 0.5 or more), else of their envelopes: a vocoder makes phases of its own.
        alignment: Normalised correlation of the waveforms at their best lag, 0 (unrelated) to 1 (a scaled copy).
        missing: Why a score is NaN, e.g. "pesq_wb: no utterance"; empty if none is.
    """

    estoi: float
    pesq_wb: float
    si_sdr_db: float
    lag_ms: float
    alignment: float
    missing: tuple[str, ...] = ()


def si_sdr_db(reference: Float[np.ndarray, " N"], estimate: Float[np.ndarray, " N"]) -> float:
    """Return the scale-invariant signal-to-distortion ratio in dB, within ±100.

    With both means removed and a = <estimate, reference> / |reference|²: 10 log10(|a r|² / |e − a r|²).
    NaN if the reference is silent.
    """
    r = reference.astype(np.float64) - np.mean(reference, dtype=np.float64)
    e = estimate.astype(np.float64) - np.mean(estimate, dtype=np.float64)
    power = float(r @ r)
    if power <= 0:
        return math.nan
    target = (float(e @ r) / power) * r
    wanted, unwanted = float(target @ target), float((e - target) @ (e - target))
    total = wanted + unwanted
    if total <= 0:
        return math.nan
    return 10 * math.log10(max(wanted / total, _FLOOR) / max(unwanted / total, _FLOOR))


def measured_lag(
    reference: Float[np.ndarray, " N"], estimate: Float[np.ndarray, " N"], max_lag: int
) -> tuple[int, float]:
    """Measure by how many samples the estimate comes after the reference, by cross-correlation.

    Args:
        reference: The clean recording.
        estimate: The recording whose lag is measured; its sign does not matter.
        max_lag: Largest lag tried, in samples.

    Returns:
        The lag in samples and the normalised correlation there (0 to 1); (0, 0.0) if either is silent.
    """
    norm = math.sqrt(float(np.dot(reference, reference)) * float(np.dot(estimate, estimate)))
    if norm <= 0:
        return 0, 0.0
    size = 1 << (len(reference) + max_lag).bit_length()
    spectrum = np.fft.rfft(estimate, size) * np.conj(np.fft.rfft(reference, size))
    correlation = np.fft.irfft(spectrum, size)
    lags = np.arange(-max_lag, max_lag + 1)
    near = np.abs(correlation[lags % size])
    # Rounding decides between equal peaks by chance: take the peak with the smallest lag.
    best = int(lags[np.lexsort((np.abs(lags), -np.round(near / norm, 9)))[0]])
    return best, min(1.0, float(near[best + max_lag]) / norm)


def envelope_lag_ms(reference: Float[np.ndarray, " N"], estimate: Float[np.ndarray, " N"], max_lag_ms: int) -> float:
    """Measure by how many milliseconds the estimate's levels come after the reference's, whatever its phases are.

    Args:
        reference: The clean recording, at `RATE`.
        estimate: The recording whose lag is measured, at `RATE`.
        max_lag_ms: Largest lag tried, in milliseconds.

    Returns:
        The lag to a millisecond, by cross-correlation of the levels in eight bands; 0 if the levels do not change.
    """
    hop, size = RATE // 1000, 256
    frames = len(reference) // hop
    levels = []
    for samples in (reference, estimate):
        padded = np.pad(samples.astype(np.float64), size // 2)
        windows = np.lib.stride_tricks.sliding_window_view(padded, size)[::hop][:frames] * np.hanning(size)
        power = np.abs(np.fft.rfft(windows, axis=1)[:, : size // 2]) ** 2
        bands = power.reshape(len(power), 8, -1).sum(axis=2)
        level = np.log(bands + 1e-4 * bands.max() + 1e-20)
        levels.append(level - level.mean(axis=0))
    length = 1 << (frames + max_lag_ms).bit_length()
    spectra = [np.fft.rfft(level, length, axis=0) for level in levels]
    correlation = np.fft.irfft((spectra[1] * np.conj(spectra[0])).sum(axis=1), length)
    lags = np.arange(-max_lag_ms, max_lag_ms + 1)
    near = correlation[lags % length]
    return float(lags[int(near.argmax())]) if near.max() > 0 else 0.0


def _estoi(reference: Float[np.ndarray, " N"], estimate: Float[np.ndarray, " N"]) -> float | str:
    """Return ESTOI, or why there is none."""
    from pystoi import stoi

    with warnings.catch_warnings():
        # pystoi answers 1e-5 with a warning where less than 384 ms are left after its own silence removal.
        warnings.simplefilter("error", RuntimeWarning)
        try:
            return float(stoi(reference.astype(np.float64), estimate.astype(np.float64), RATE, extended=True))
        except RuntimeWarning:
            return "too little speech"


def _pesq_wb(reference: Float[np.ndarray, " N"], estimate: Float[np.ndarray, " N"]) -> float | str:
    """Return wideband PESQ, or why there is none."""
    from pesq import BufferTooShortError, NoUtterancesError, pesq

    try:
        return float(pesq(RATE, reference, estimate, "wb"))
    except NoUtterancesError:
        return "no utterance"
    except BufferTooShortError:
        return "shorter than 0.25 s"


def intrusive(
    reference: Float[np.ndarray, " N"],
    estimate: Float[np.ndarray, " M"],
    sample_rate: int,
    max_lag_ms: float = 100.0,
) -> IntrusiveScore:
    """Score an estimate against its reference; the lag is measured, not removed.

    Args:
        reference: Clean speech.
        estimate: The same speech, noisy or enhanced; of the same length.
        sample_rate: Of both, in Hz.
        max_lag_ms: Largest lag tried, in milliseconds.

    Raises:
        ValueError: The lengths differ.
    """
    if len(reference) != len(estimate):
        raise ValueError(f"the reference has {len(reference)} samples, the estimate {len(estimate)}; cut them alike")
    r = resample(reference.astype(np.float32), sample_rate, RATE)
    e = resample(estimate.astype(np.float32), sample_rate, RATE)
    if not np.any(r) or not np.any(e):
        silent = "reference" if not np.any(r) else "estimate"
        nan = math.nan
        return IntrusiveScore(
            estoi=nan, pesq_wb=nan, si_sdr_db=nan, lag_ms=nan, alignment=0.0, missing=(f"the {silent} is silent",)
        )
    lag, alignment = measured_lag(r, e, round(max_lag_ms * RATE / 1000))
    found = {"estoi": _estoi(r, e), "pesq_wb": _pesq_wb(r, e)}
    values = {name: math.nan if isinstance(value, str) else value for name, value in found.items()}
    return IntrusiveScore(
        si_sdr_db=si_sdr_db(r, e),
        lag_ms=1000 * lag / RATE if alignment >= 0.5 else envelope_lag_ms(r, e, round(max_lag_ms)),
        alignment=alignment,
        missing=tuple(f"{name}: {value}" for name, value in found.items() if isinstance(value, str)),
        **values,
    )
