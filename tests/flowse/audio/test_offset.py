"""Laws of offsets: a constant is found and removed exactly, and recordings without one stay as they are."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowse.audio.offset import OFFSET_SHARE, offset_of, without_offset

NOISE = (0.1 * np.random.default_rng(0).standard_normal(24_000)).astype(np.float32)


@given(st.floats(-1, 1, width=32).filter(lambda value: abs(value) > 0.02))
def test_an_offset_is_removed_whatever_its_size(offset: float) -> None:
    cleaned = without_offset(NOISE + np.float32(offset))
    np.testing.assert_allclose(cleaned, NOISE - NOISE.mean(), atol=2e-7)


@given(st.floats(-1, 1, width=32).filter(lambda value: abs(value) > 1e-30), st.integers(2, 5000))
def test_a_constant_becomes_exact_silence(value: float, count: int) -> None:
    assert not np.any(without_offset(np.full(count, value, np.float32)))


def test_samples_without_an_offset_stay_the_same_object() -> None:
    assert without_offset(NOISE) is NOISE
    small = NOISE + np.float32(0.1 * OFFSET_SHARE**0.5 * 0.9)
    assert without_offset(small) is small


@pytest.mark.parametrize("samples", [[], [1.0], [np.nan, 1.0], [np.inf, 1.0], [0.0, 0.0]])
def test_what_has_no_mean_has_no_offset(samples: list[float]) -> None:
    assert offset_of(np.array(samples, np.float32)) == 0.0
