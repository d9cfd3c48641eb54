"""Laws of the intrusive scores: closed forms, invariances, and the lag of a signal that was shifted."""

import math

import numpy as np
import pytest

from flowse.metrics.intrusive import RATE, intrusive, measured_lag, si_sdr_db
from flowse.seeding import generator


def speechlike(seconds: float, seed: int = 0) -> np.ndarray:
    """Noise in syllables: harmonics of a gliding pitch under a 4-Hz envelope."""
    n = round(seconds * RATE)
    t = np.arange(n) / RATE
    phase = 2 * np.pi * np.cumsum(120 + 20 * np.sin(2 * np.pi * 0.7 * t)) / RATE
    voiced = sum(np.sin(k * phase) / k for k in range(1, 20))
    rng = generator(seed)
    envelope = np.clip(np.sin(2 * np.pi * 2 * t), 0, None) ** 2
    return (0.2 * envelope * (voiced + 0.1 * rng.standard_normal(n))).astype(np.float32)


def test_si_sdr_of_orthogonal_noise_is_the_ratio_of_powers() -> None:
    n = 1000
    t = np.arange(n) / n
    speech, noise = np.sin(2 * np.pi * 5 * t), np.sin(2 * np.pi * 9 * t)
    assert si_sdr_db(speech, speech + 0.1 * noise) == pytest.approx(20.0, abs=1e-9)


def test_si_sdr_does_not_depend_on_scale_or_offset() -> None:
    rng = generator(1)
    speech, noise = rng.standard_normal((2, 4000))
    base = si_sdr_db(speech, speech + noise)
    assert si_sdr_db(speech, 0.01 * (speech + noise) + 0.5) == pytest.approx(base, abs=1e-9)
    assert si_sdr_db(7 * speech, speech + noise) == pytest.approx(base, abs=1e-9)


def test_si_sdr_is_bounded_and_undefined_for_silence() -> None:
    speech = generator(2).standard_normal(500)
    assert si_sdr_db(speech, speech) == pytest.approx(100.0)
    assert math.isnan(si_sdr_db(np.zeros(500), speech))
    assert math.isnan(si_sdr_db(speech, np.zeros(500)))


@pytest.mark.parametrize("shift", [-337, -1, 0, 1, 250])
def test_lag_of_a_shifted_signal_is_the_shift(shift: int) -> None:
    base = generator(3).standard_normal(9000).astype(np.float32)
    reference, estimate = base[1000:8000], base[1000 - shift : 8000 - shift]
    lag, alignment = measured_lag(reference, -0.3 * estimate, 400)
    assert lag == shift
    assert alignment > 0.9


@pytest.mark.parametrize("shift_ms", [-40, -3, 0, 21])
def test_the_lag_of_a_sound_does_not_depend_on_its_phases(shift_ms: int) -> None:
    """Every phase of the estimate is drawn anew, as a vocoder's are; only the levels of its bands are kept."""
    base = speechlike(3.0)
    shift = shift_ms * RATE // 1000
    reference, moved = base[8000:40_000], base[8000 - shift : 40_000 - shift]
    size, hop = 256, 64
    frames = np.lib.stride_tricks.sliding_window_view(np.pad(moved, size // 2), size)[::hop] * np.hanning(size)
    phases = np.exp(2j * np.pi * generator(5).random((len(frames), size // 2 + 1)))
    estimate = np.zeros(len(frames) * hop + size)
    for i, frame in enumerate(np.fft.irfft(np.abs(np.fft.rfft(frames, axis=1)) * phases, axis=1) * np.hanning(size)):
        estimate[i * hop : i * hop + size] += frame
    score = intrusive(reference, estimate[size // 2 : size // 2 + len(reference)].astype(np.float32), RATE)
    assert score.alignment < 0.5
    assert score.lag_ms == pytest.approx(shift_ms, abs=2)


def test_a_copy_scores_perfectly_at_any_rate() -> None:
    speech = speechlike(3.0)
    score = intrusive(speech, 0.5 * speech, RATE)
    assert score.estoi == pytest.approx(1.0, abs=1e-6)
    assert score.pesq_wb > 4.5
    assert score.lag_ms == 0
    assert score.alignment == pytest.approx(1.0, abs=1e-5)
    assert score.missing == ()


def test_noise_lowers_every_score() -> None:
    speech = speechlike(3.0)
    hiss = generator(4).standard_normal(len(speech)).astype(np.float32)
    little, much = (intrusive(speech, speech + level * hiss, RATE) for level in (0.003, 0.1))
    assert little.estoi > much.estoi
    assert little.pesq_wb > much.pesq_wb
    assert little.si_sdr_db > much.si_sdr_db


def test_a_score_that_cannot_be_computed_is_nan_and_has_a_reason() -> None:
    silent = np.zeros(RATE, np.float32)
    score = intrusive(silent, speechlike(1.0), RATE)
    assert math.isnan(score.pesq_wb)
    assert score.missing == ("the reference is silent",)
    short = speechlike(0.3)[1000:3000]
    score = intrusive(short, short, RATE)
    assert math.isnan(score.estoi)
    assert math.isnan(score.pesq_wb)
    assert score.missing == ("estoi: too little speech", "pesq_wb: shorter than 0.25 s")


def test_different_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="cut them alike"):
        intrusive(np.ones(10, np.float32), np.ones(11, np.float32), RATE)
