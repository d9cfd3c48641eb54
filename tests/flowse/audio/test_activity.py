"""Laws of sound activity: silence and hum are separated from speech-like sound at any gain and position."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowse.audio.activity import FRAME_S, active_frames, find_activity, frame_levels
from flowse.seeding import generator

RATE = 16000


def bursts(seconds: float = 1.0, level: float = 0.1) -> np.ndarray:
    """Noise that comes and goes four times a second, as syllables do."""
    n = round(seconds * RATE)
    envelope = np.maximum(0.02, np.sin(np.arange(n) * 2 * np.pi * 4 / RATE))
    return (level * envelope * generator(0).standard_normal(n)).astype(np.float32)


@pytest.mark.parametrize("before_s", [0.0, 0.5, 3.0])
def test_silence_before_and_after_does_not_change_the_active_stretch(before_s: float) -> None:
    sound = bursts()
    silence = np.zeros(round(before_s * RATE), dtype=np.float32)
    found = find_activity(np.concatenate([silence, sound, silence]), RATE, margin_s=0.0)
    assert abs(found.start - len(silence)) <= 2 * FRAME_S * RATE
    assert abs(found.stop - len(silence) - len(sound)) <= 2 * FRAME_S * RATE
    assert found.active_s == pytest.approx(find_activity(sound, RATE).active_s, abs=0.1)


@given(st.floats(min_value=0.02, max_value=20))
def test_gain_changes_nothing_above_the_floor(gain: float) -> None:
    plain = find_activity(bursts(), RATE, floor_dbfs=-200.0)
    louder = find_activity(bursts() * np.float32(gain), RATE, floor_dbfs=-200.0)
    assert (plain.start, plain.stop) == (louder.start, louder.stop)
    assert louder.dynamics_db == pytest.approx(plain.dynamics_db, abs=0.1)


@pytest.mark.parametrize(
    "waveform",
    [
        np.zeros(0, np.float32),
        np.zeros(1, np.float32),
        np.zeros(RATE, np.float32),
        np.full(RATE, np.nan, np.float32),
        np.full(RATE, np.inf, np.float32),
        1e-5 * bursts(),
        np.full(RATE, 0.1, np.float32),
        1e-5 * bursts() + 0.1,
    ],
    ids=["empty", "one sample", "zeros", "nan", "inf", "too quiet", "constant", "too quiet beside an offset"],
)
def test_silence_has_no_active_stretch(waveform: np.ndarray) -> None:
    found = find_activity(waveform.astype(np.float32), RATE)
    assert (found.start, found.stop, found.active_s) == (0, 0, 0.0)


def test_dynamics_separate_speech_like_sound_from_hum_and_hiss() -> None:
    hum = (0.1 * np.sin(np.arange(RATE) * 2 * np.pi * 50 / RATE)).astype(np.float32)
    hiss = (0.1 * generator(1).standard_normal(RATE)).astype(np.float32)
    assert find_activity(hum, RATE).dynamics_db < 0.5
    assert find_activity(hiss, RATE).dynamics_db < 2
    assert find_activity(bursts(), RATE).dynamics_db > 10


def test_level_of_a_square_wave_is_its_amplitude() -> None:
    square = np.where(np.arange(RATE) % 100 < 50, 0.1, -0.1).astype(np.float32)
    assert frame_levels(square, RATE) == pytest.approx(-20.0, abs=1e-3)


def test_non_finite_samples_count_as_zero() -> None:
    holed, broken = bursts(), bursts()
    holed[1000:2000] = 0
    broken[1000:2000] = np.nan
    assert np.array_equal(frame_levels(holed, RATE), frame_levels(broken, RATE))


def test_an_empty_waveform_has_no_active_frames() -> None:
    assert active_frames(np.zeros(0)).shape == (0,)


@pytest.mark.parametrize("offset", [0.001, 0.01, -0.1, 0.5])
def test_a_constant_offset_changes_no_activity(offset: float) -> None:
    expected = find_activity(np.concatenate([np.zeros(8000, np.float32), bursts()]), RATE)
    found = find_activity(np.concatenate([np.zeros(8000, np.float32), bursts()]) + np.float32(offset), RATE)
    assert (found.start, found.stop, found.active_s) == (expected.start, expected.stop, expected.active_s)
    # Silence is as quiet as its offset is exact.
    assert found.dynamics_db > 20
