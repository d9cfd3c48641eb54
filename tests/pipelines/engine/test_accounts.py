"""Laws of accounts: they balance or are refused, and the accounts of units add up to the account of the stage."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowse.data.manifest import Reject
from pipelines.engine.accounts import StageReport, Tally, UnitReport, account_unit, merge

DURATIONS = st.lists(st.floats(0, 100), max_size=20)


def reject(number: int, duration_s: float) -> Reject:
    kind = "dropped" if number % 2 else "failed"
    return Reject(utt_id=f"u{number}", corpus="c", stage="s", kind=kind, reason=f"r{number % 3}", duration_s=duration_s)


def unit(kept: list[float], lost: list[float]) -> StageReport:
    rejects = tuple(reject(number, duration) for number, duration in enumerate(lost))
    return account_unit(Tally.of([*kept, *lost]), UnitReport(kept=Tally.of(kept), rejects=rejects, metrics={"n": 1.0}))


@given(st.lists(st.tuples(DURATIONS, DURATIONS), max_size=6))
def test_accounts_of_units_add_up_to_the_account_of_the_stage(units: list[tuple[list[float], list[float]]]) -> None:
    total = merge(unit(kept, lost) for kept, lost in units)
    assert total.taken.utterances == sum(len(kept) + len(lost) for kept, lost in units)
    assert total.kept.utterances == sum(len(kept) for kept, _ in units)
    assert total.metrics.get("n", 0) == len(units)


@pytest.mark.parametrize(
    ("taken", "kept"),
    [(Tally(2, 2.0), Tally(1, 1.0)), (Tally(1, 1.0), Tally(2, 2.0)), (Tally(1, 2.0), Tally(1, 1.0))],
    ids=["lost", "invented", "other hours"],
)
def test_an_account_that_does_not_balance_is_refused(taken: Tally, kept: Tally) -> None:
    with pytest.raises(ValueError, match="do not balance"):
        StageReport(taken=taken, kept=kept)
