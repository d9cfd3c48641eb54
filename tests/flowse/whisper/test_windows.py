"""Laws of windows: together they cover every sample exactly once, and they are cut where it is quiet."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from flowse.seeding import generator
from flowse.whisper.windows import SAMPLE_RATE, split_windows
from tests.tiny import syllables


@settings(deadline=None)
@given(
    st.lists(st.floats(0.0, 1.0), min_size=0, max_size=120),
    st.integers(min_value=20, max_value=400),
    st.integers(min_value=0, max_value=2**31),
)
def test_windows_cover_every_sample_exactly_once(levels: list[float], longest: int, seed: int) -> None:
    waveform = np.repeat(np.asarray(levels, dtype=np.float32), 37) * generator(seed).standard_normal(37 * len(levels))
    windows = split_windows(waveform.astype(np.float32), longest, sample_rate=100)
    assert [start for start, _ in windows[:1]] == [0] * bool(levels)
    assert all(stop == start for (_, stop), (start, _) in pairwise(windows))
    assert windows[-1][1] == len(waveform) if levels else windows == []
    assert all(0 < stop - start <= longest for start, stop in windows)


def test_windows_are_cut_in_the_pause() -> None:
    pause = np.zeros(SAMPLE_RATE // 2, np.float32)
    waveform = np.concatenate([syllables(4.0, 1), pause, syllables(4.0, 2)])
    (_, cut), _ = split_windows(waveform, 6 * SAMPLE_RATE)
    assert 4.0 < cut / SAMPLE_RATE < 4.5


def test_a_window_of_the_longest_length_stays_whole() -> None:
    assert split_windows(np.ones(6 * SAMPLE_RATE, np.float32), 6 * SAMPLE_RATE) == [(0, 6 * SAMPLE_RATE)]
