"""The contract's arithmetic: books balance or are refused, and sums of books are books."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowse.data.manifest import Reject
from pipelines.engine.stage import Resources, StageReport, Tally, UnitReport, batched, books, merge

DURATIONS = st.lists(st.floats(0, 100), max_size=20)


def reject(number: int, duration_s: float) -> Reject:
    kind = "dropped" if number % 2 else "failed"
    return Reject(utt_id=f"u{number}", corpus="c", stage="s", kind=kind, reason=f"r{number % 3}", duration_s=duration_s)


def unit(kept: list[float], lost: list[float]) -> StageReport:
    rejects = tuple(reject(number, duration) for number, duration in enumerate(lost))
    return books(Tally.of([*kept, *lost]), UnitReport(kept=Tally.of(kept), rejects=rejects, metrics={"n": 1.0}))


@given(st.lists(st.tuples(DURATIONS, DURATIONS), max_size=6))
def test_books_of_units_add_up_to_books_of_the_stage(units: list[tuple[list[float], list[float]]]) -> None:
    total = merge(unit(kept, lost) for kept, lost in units)
    assert total.taken.utterances == sum(len(kept) + len(lost) for kept, lost in units)
    assert total.kept.utterances == sum(len(kept) for kept, _ in units)
    assert total.metrics.get("n", 0) == len(units)


@pytest.mark.parametrize(
    ("taken", "kept"),
    [(Tally(2, 2.0), Tally(1, 1.0)), (Tally(1, 1.0), Tally(2, 2.0)), (Tally(1, 2.0), Tally(1, 1.0))],
    ids=["lost", "invented", "other hours"],
)
def test_books_that_do_not_balance_are_refused(taken: Tally, kept: Tally) -> None:
    with pytest.raises(ValueError, match="do not balance"):
        StageReport(taken=taken, kept=kept)


@pytest.mark.parametrize(
    ("values", "complaint"),
    [({"num_cpus": -1}, "num_cpus"), ({"num_cpus": 0}, "number of workers"), ({"workers": 0}, "workers is 0")],
)
def test_resources_that_cannot_work_are_refused(values: dict[str, int], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        Resources(**values)  # type: ignore[arg-type]


@given(st.lists(st.integers(), max_size=30), st.integers(1, 7))
def test_batches_hold_everything_once_in_order(items: list[int], size: int) -> None:
    parts = list(batched(items, size))
    assert [item for part in parts for item in part] == items
    assert all(len(part) == size for part in parts[:-1])
