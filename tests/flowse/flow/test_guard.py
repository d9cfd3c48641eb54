"""Laws of the guard's choice: the best share, never one worse than the predictor alone, and a record that returns."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from flowse.flow.guard import GUARD, Guard, GuardConfig
from flowse.flow.sampling import Sampling
from flowse.seeding import generator


def test_it_is_never_below_the_predictor_alone() -> None:
    shares = (0.0, 0.25, 0.5, 0.75, 1.0)
    for seed in range(50):
        scores = dict(zip(shares, generator(seed).normal(3, 0.1, 5).tolist(), strict=True))
        assert scores[Guard.of(scores, 16).guard] == max(scores.values()) >= scores[0.0]


def test_of_equal_scores_the_smallest_share_is_taken() -> None:
    assert Guard.of({0.0: 2.5, 0.5: 2.5, 1.0: 2.5}, 3).guard == 0
    assert Guard.of({0.0: 2.4, 0.5: 2.5, 1.0: 2.5}, 3).guard == 0.5


def test_a_choice_without_the_predictor_or_with_no_number_is_refused() -> None:
    with pytest.raises(ValueError, match="share 0"):
        Guard.of({0.5: 2.5, 1.0: 2.6}, 3)
    with pytest.raises(ValueError, match="finite"):
        Guard.of({0.0: 2.5, 1.0: math.nan}, 3)


def test_the_record_comes_back_and_a_folder_without_one_has_none(tmp_path: Path) -> None:
    guard = Guard.of({0.0: 2.5, 0.25: 2.625}, 8)
    assert Guard.read(tmp_path) is None
    guard.write(tmp_path / GUARD)
    assert Guard.read(tmp_path) == guard
    assert str(guard) == "guard 0.25, by DNSMOS overall of 8 mixtures of split dev (0: 2.500, 0.25: 2.625)"
    (tmp_path / GUARD).write_text('{"guard": 0.25}')
    with pytest.raises(ValueError, match="mixtures is missing"):
        Guard.read(tmp_path)


@pytest.mark.parametrize(
    ("key", "value"),
    [("mixtures", -1), ("shares", ()), ("shares", (0.0, 1.0)), ("shares", (1.5,)), ("sampling", Sampling(steps=0))],
)
def test_an_impossible_choice_is_refused_by_name(key: str, value: object) -> None:
    with pytest.raises(ValueError, match=key):
        GuardConfig(**{key: value})  # type: ignore[arg-type]
