"""Laws of the effects: each has its stated effect, keeps the length, and adds no delay."""

from __future__ import annotations

import numpy as np
import pytest

from flowse.seeding import generator
from flowse.simulation.effects import apply_codec, clip, equalise, limit_band, lose_packets
from flowse.simulation.recipe import CODEC_RATES, EQ_BANDS_HZ, Codec

RATE = 24_000


def _noise(seed: int = 0, samples: int = 2 * RATE) -> np.ndarray:
    return (0.1 * generator(seed).standard_normal(samples)).astype(np.float32)


def _band_db(samples: np.ndarray, low_hz: float, high_hz: float) -> float:
    power = np.abs(np.fft.rfft(samples)) ** 2
    frequency = np.fft.rfftfreq(len(samples), 1 / RATE)
    return float(10 * np.log10(power[(frequency >= low_hz) & (frequency < high_hz)].mean()))


def test_a_flat_equaliser_is_the_identity() -> None:
    noise = _noise()
    np.testing.assert_allclose(equalise(noise, (0.0,) * len(EQ_BANDS_HZ), RATE), noise, atol=1e-5)


def test_the_equaliser_has_its_gains_at_its_bands() -> None:
    noise, gains = _noise(), (0.0, -6.0, 6.0, 0.0, -6.0)
    made = equalise(noise, gains, RATE)
    for band, gain in list(zip(EQ_BANDS_HZ, gains, strict=True))[1:]:
        change = _band_db(made, band * 0.95, band * 1.05) - _band_db(noise, band * 0.95, band * 1.05)
        assert change == pytest.approx(gain, abs=1.2)


def test_the_band_limit_removes_what_is_above_and_keeps_what_is_below() -> None:
    noise = _noise()
    limited = limit_band(noise, 5000.0, RATE)
    assert _band_db(limited, 5300, 12000) - _band_db(noise, 5300, 12000) < -40
    assert _band_db(limited, 50, 4700) == pytest.approx(_band_db(noise, 50, 4700), abs=0.1)
    np.testing.assert_allclose(limit_band(limited, 8000.0, RATE)[300:-300], limited[300:-300], atol=2e-4)


@pytest.mark.parametrize("share", [0.001, 0.02, 0.3])
def test_the_given_share_of_samples_clips_and_the_others_are_untouched(share: float) -> None:
    noise = _noise()
    clipped = clip(noise, share)
    changed = clipped != noise
    assert changed.mean() == pytest.approx(share, abs=1e-3)
    assert np.abs(clipped).max() <= np.abs(noise[~changed]).max()


@pytest.mark.parametrize("codec", ["mp3", "opus"])
@pytest.mark.parametrize("samples", [2 * RATE, 12_345])
def test_codecs_keep_length_and_time(codec: str, samples: int) -> None:
    """Low-pass noise comes back without delay; the higher the bit rate, the smaller the error."""
    noise = limit_band(_noise(samples=samples), 3000.0, RATE)
    errors = []
    for kbps in (16.0, 64.0):
        made = apply_codec(noise, codec, kbps, RATE)  # type: ignore[arg-type]
        assert len(made) == samples
        correlation = np.correlate(np.pad(made, 20), noise, mode="valid")
        assert abs(int(np.argmax(correlation)) - 20) <= 2
        errors.append(float(np.square(made - noise).mean()))
    assert errors[1] < errors[0]


def test_an_unknown_codec_is_refused() -> None:
    with pytest.raises(ValueError, match="codec"):
        apply_codec(_noise(samples=100), "", 16.0, RATE)


def test_lost_packets_are_silent_and_the_others_unchanged() -> None:
    noise, size = _noise(samples=10_000), 480
    made = lose_packets(noise, (2, 3, 99), RATE)
    np.testing.assert_array_equal(made[: 2 * size - 100], noise[: 2 * size - 100])
    np.testing.assert_array_equal(made[4 * size + 100 :], noise[4 * size + 100 :])
    assert np.abs(made[2 * size + 100 : 4 * size - 100]).max() < 1e-6


@pytest.mark.parametrize("codec", sorted(CODEC_RATES))
def test_every_rate_that_a_codec_is_said_to_know_can_be_coded(codec: Codec) -> None:
    for rate in CODEC_RATES[codec]:
        samples = (0.1 * np.random.default_rng(0).standard_normal(rate // 2)).astype(np.float32)
        assert apply_codec(samples, codec, 32.0, rate).shape == samples.shape
