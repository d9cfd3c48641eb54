"""Laws of the bandwidth: a known edge is found at any gain and rate, and a call stays a call at a higher rate."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowse.audio.bandwidth import FRAME_S, bandwidth_hz
from flowse.audio.waveform import resample
from flowse.seeding import generator

BIN_HZ = 1 / FRAME_S


def band(low_hz: float, high_hz: float, rate: int, seconds: float = 2.0, seed: int = 0) -> np.ndarray:
    """Noise that occupies exactly one band."""
    n = round(seconds * rate)
    spectrum = np.fft.rfft(generator(seed).standard_normal(n))
    frequencies = np.fft.rfftfreq(n, 1 / rate)
    spectrum[(frequencies < low_hz) | (frequencies > high_hz)] = 0
    samples = np.fft.irfft(spectrum, n)
    return (0.1 * samples / samples.std()).astype(np.float32)


@pytest.mark.parametrize("rate", [8000, 16_000, 22_050, 44_100, 48_000])
@pytest.mark.parametrize("share", [0.2, 0.5, 0.8, 1.0])
def test_the_edge_of_band_limited_noise_is_found(rate: int, share: float) -> None:
    edge_hz = share * rate / 2
    assert bandwidth_hz(band(100.0, edge_hz, rate), rate) == pytest.approx(edge_hz, abs=4 * BIN_HZ)


@given(st.floats(min_value=1e-4, max_value=1e3))
def test_gain_changes_nothing(gain: float) -> None:
    samples = band(300.0, 3400.0, 16_000)
    assert bandwidth_hz(samples * np.float32(gain), 16_000) == bandwidth_hz(samples, 16_000)


def test_a_wider_band_has_no_smaller_bandwidth() -> None:
    found = [bandwidth_hz(band(100.0, edge, 16_000), 16_000) for edge in range(500, 8001, 500)]
    assert found == sorted(found)


@pytest.mark.parametrize("rate", [16_000, 24_000, 48_000])
def test_a_call_of_8_khz_that_was_upsampled_ends_at_4_khz_also_in_16_bits(rate: int) -> None:
    call = resample(band(100.0, 4000.0, 8000), 8000, rate)
    stored = np.round(call * 32768).astype(np.float32) / 32768
    assert 3500 < bandwidth_hz(stored, rate) <= 4000 + 2 * BIN_HZ


def test_pauses_and_offset_and_hum_hide_no_band() -> None:
    speech = band(100.0, 7000.0, 16_000)
    padded = np.concatenate([np.zeros(32_000), speech * np.hanning(len(speech)), np.zeros(64_000)])
    hum = np.sin(2 * np.pi * 50 * np.arange(len(padded)) / 16_000)
    for disturbed in (padded, padded + 0.3 * hum, padded + 0.02):
        assert bandwidth_hz(disturbed.astype(np.float32), 16_000) == pytest.approx(7000, abs=4 * BIN_HZ)


def test_a_few_clicks_and_clipped_samples_fill_no_band() -> None:
    call = resample(band(100.0, 4000.0, 8000, seconds=4.0), 8000, 16_000)
    clipped = np.clip(call, -0.38, 0.38)
    assert 0 < np.mean(clipped != call) < 1e-3
    call[20_000] += 0.5
    for disturbed in (clipped, call):
        assert 3500 < bandwidth_hz(disturbed, 16_000) <= 4000 + 2 * BIN_HZ


@pytest.mark.parametrize("length", [0, 1, 100])
def test_silence_has_no_band_however_short(length: int) -> None:
    assert bandwidth_hz(np.zeros(length, np.float32), 16_000) == 0.0
