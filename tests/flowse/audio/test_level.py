"""Laws of levels: closed forms, and pauses and offsets that do not count."""

from __future__ import annotations

import math

import numpy as np
import pytest

from flowse.audio.level import active_level_dbfs, level_dbfs, set_level


def tone(seconds: float = 1.0, rate: int = 24_000, hertz: float = 440.0, peak: float = 0.5) -> np.ndarray:
    time = np.arange(round(seconds * rate)) / rate
    return (peak * np.sin(2 * np.pi * hertz * time)).astype(np.float32)


def noise(n_samples: int, seed: int = 0) -> np.ndarray:
    return (0.1 * np.random.default_rng(seed).standard_normal(n_samples)).astype(np.float32)


def test_levels_equal_their_closed_form() -> None:
    assert level_dbfs(np.resize([1, -1], 10).astype(np.float32)) == 0
    assert level_dbfs(np.ones(10, np.float32)) == -math.inf
    assert level_dbfs(tone(peak=1.0)) == pytest.approx(-10 * math.log10(2), abs=1e-3)
    assert level_dbfs(np.zeros(10, np.float32)) == -math.inf
    assert level_dbfs(np.zeros(0, np.float32)) == -math.inf


def test_pauses_do_not_change_the_active_level() -> None:
    speech = noise(24_000)
    padded = np.concatenate([speech, np.zeros(72_000, np.float32)])
    assert active_level_dbfs(padded, 24_000) == pytest.approx(active_level_dbfs(speech, 24_000), abs=1e-6)
    assert level_dbfs(padded) == pytest.approx(level_dbfs(speech) - 10 * math.log10(4), abs=1e-6)


def test_the_active_level_of_a_steady_sound_is_its_level() -> None:
    assert active_level_dbfs(tone(), 24_000) == pytest.approx(level_dbfs(tone()), abs=0.05)
    assert active_level_dbfs(np.zeros(4800, np.float32), 24_000) == -math.inf
    assert active_level_dbfs(np.array([1, -1, 1, -1], np.float32), 24_000) == 0


@pytest.mark.parametrize("offset", [0.05, -0.3, 2.0])
def test_a_constant_offset_changes_no_level(offset: float) -> None:
    shifted = noise(24_000) + np.float32(offset)
    assert level_dbfs(shifted) == pytest.approx(level_dbfs(noise(24_000)), abs=0.01)
    bursts = noise(24_000) * np.repeat([1, 0, 1, 0], 6000).astype(np.float32)
    expected = active_level_dbfs(bursts, 24_000)
    assert active_level_dbfs(bursts + np.float32(offset), 24_000) == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize("dbfs", [-35.0, -15.0])
def test_set_level_reaches_the_level(dbfs: float) -> None:
    samples = set_level(noise(1000), dbfs)
    assert level_dbfs(samples) == pytest.approx(dbfs, abs=1e-4)
    assert samples.dtype == np.float32


def test_silence_cannot_be_set_to_a_level() -> None:
    with pytest.raises(ValueError, match="silence"):
        set_level(np.zeros(10, np.float32), -20.0)
