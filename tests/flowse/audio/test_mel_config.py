"""Laws of the mel definition: frames and samples agree, and a contradiction is refused by name."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowse.audio.mel_config import MelConfig


@given(n_frames=st.integers(1, 10_000))
def test_samples_is_the_least_number_with_that_many_frames(n_frames: int) -> None:
    config = MelConfig()
    assert config.frames(config.samples(n_frames)) == n_frames
    assert config.frames(config.samples(n_frames) - 1) == n_frames - 1


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"win_length": 2048}, "win_length=2048 exceeds n_fft=1024"),
        ({"f_max": 13_000.0}, "half of sample_rate=24000"),
        ({"floor": 0.0}, "floor=0.0"),
    ],
)
def test_an_error_names_the_two_values_that_contradict_each_other(values: dict[str, float], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        MelConfig(**values)  # type: ignore[arg-type]
