"""Laws of the paired bootstrap: known cases, coverage, and that pairs stay together."""

import numpy as np
import pytest

from flowse.metrics.bootstrap import paired_difference
from flowse.seeding import generator


def test_a_constant_shift_is_certain() -> None:
    before = generator(0).standard_normal(50)
    found = paired_difference(before + 0.3, before, seed=1)
    assert (found.value, found.low, found.high) == pytest.approx((0.3, 0.3, 0.3))
    assert found.excludes_zero


def test_rates_weigh_by_length() -> None:
    errors_before, errors_after, words = np.array([2.0, 0.0]), np.array([0.0, 1.0]), np.array([10.0, 2.0])
    assert paired_difference(errors_after, errors_before, 0, words).value == pytest.approx((1 - 2) / 12)


def test_the_interval_covers_the_true_difference_in_about_95_of_100_cases() -> None:
    rng = generator(7)
    hits = 0
    for trial in range(200):
        change = rng.normal(0.5, 1.0, 60)
        found = paired_difference(change, np.zeros(60), seed=trial, resamples=500)
        hits += found.low <= 0.5 <= found.high
    assert 0.89 <= hits / 200 <= 0.99


def test_the_same_seed_gives_the_same_interval() -> None:
    x, y = generator(0).standard_normal((2, 30))
    assert paired_difference(x, y, 5) == paired_difference(x, y, 5)
    assert paired_difference(x, y, 5) != paired_difference(x, y, 6)


def test_no_utterances_are_an_error() -> None:
    with pytest.raises(ValueError, match="nothing to compare"):
        paired_difference(np.zeros(0), np.zeros(0), 0)
