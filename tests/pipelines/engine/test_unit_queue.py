"""Laws of the queue: rows on which workers die are found and refused, whoever else fails is tried again or given up."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowse.data.manifest import Reject
from flowse.refusal import CHANGED
from pipelines.engine.accounts import Tally, UnitReport
from pipelines.engine.records import QUARANTINE_SUFFIX
from pipelines.engine.stage import Divisible, Unit
from pipelines.engine.unit_queue import _CULPRITS, _LOST_NODES, WORKER_DIED, Attempt, UnitHost, UnitQueue
from pipelines.engine.units import UnitFolder, done_units
from tests.pipelines.engine.writer import Writer


@dataclass(frozen=True)
class Rows:
    """A payload of rows, some of which are refused."""

    rows: int
    refused: Mapping[int, tuple[str, str]] = field(default_factory=dict)

    def refuse(self, rows: Mapping[int, tuple[str, str]]) -> Rows:
        return dataclasses.replace(self, refused={**self.refused, **rows})


class Counter:
    """Keeps the rows that are not refused."""

    def __call__(self, payload: Rows, output: UnitFolder) -> UnitReport:
        output.path(".txt").write_text(str(payload))
        rejects = tuple(
            Reject(utt_id=str(row), corpus="c", stage="s", kind="failed", reason=reason, detail=detail, duration_s=1.0)
            for row, (reason, detail) in sorted(payload.refused.items())
        )
        kept = payload.rows - len(rejects)
        return UnitReport(Tally(kept, float(kept)), rejects)


def run(folder: Path, unit: Unit[Rows], deadly: set[int], retries: int = 1) -> tuple[UnitQueue, int]:
    """Do a unit with workers that die on some rows; return the queue and the number of deaths."""
    (folder / "units").mkdir(exist_ok=True)
    queue = UnitQueue("demo", [unit], folder / "units", folder, retries)
    deaths = 0
    while queue.pending:
        attempt = queue.pending.popleft()
        if deadly - set(attempt.unit.payload.refused):
            deaths += 1
            queue.died(attempt, "its worker died:\nsegmentation fault")
        else:
            queue.done(attempt, UnitHost(Counter, (), 1).run(folder / "units", attempt))
    return queue, deaths


@settings(deadline=None, max_examples=30)
@given(data=st.data())
def test_the_rows_on_which_workers_die_are_found_and_no_others(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    rows = data.draw(st.integers(1, 200))
    deadly = data.draw(st.sets(st.integers(0, rows - 1), max_size=min(rows, _CULPRITS)))
    folder = tmp_path_factory.mktemp("queue")
    queue, deaths = run(folder, Unit("u", Rows(rows), Tally(rows, float(rows))), deadly)
    outcome = queue.outcome()
    assert outcome.quarantined == ()
    assert outcome.report.kept == Tally(rows - len(deadly), float(rows - len(deadly)))
    assert outcome.report.failed == ({WORKER_DIED: Tally(len(deadly), float(len(deadly)))} if deadly else {})
    assert list(done_units(folder / "units")) == ["u"]
    assert deaths <= 2 + len(deadly) * (rows.bit_length() + 1)


def test_a_unit_with_too_many_such_rows_is_given_up(tmp_path: Path) -> None:
    queue, _ = run(tmp_path, Unit("u", Rows(50), Tally(50, 50.0)), set(range(_CULPRITS + 1)))
    assert queue.outcome().quarantined == ("u",)
    assert "segmentation fault" in (tmp_path / f"u{QUARANTINE_SUFFIX}").read_text()
    assert done_units(tmp_path / "units") == {}


def test_a_payload_that_cannot_be_divided_is_given_up_after_its_tries(tmp_path: Path) -> None:
    (tmp_path / "units").mkdir()
    queue = UnitQueue("demo", [Unit("u", "payload", Tally(1, 1.0))], tmp_path / "units", tmp_path, 2)
    deaths = 0
    while queue.pending:
        queue.died(queue.pending.popleft(), "died")
        deaths += 1
    assert (deaths, queue.outcome().quarantined) == (3, ("u",))
    assert isinstance(Rows(1), Divisible)
    assert not isinstance("payload", Divisible)


def test_a_lost_node_is_no_try_but_does_not_go_on_for_ever(tmp_path: Path) -> None:
    (tmp_path / "units").mkdir()
    queue = UnitQueue("demo", [Unit("u", "payload", Tally(1, 1.0))], tmp_path / "units", tmp_path, 0)
    lost = 0
    while queue.pending:
        queue.node_lost(queue.pending.popleft(), "its node is lost")
        lost += 1
    assert lost == _LOST_NODES + 1
    assert queue.outcome().quarantined == ("u",)


def test_a_probe_commits_nothing(tmp_path: Path) -> None:
    (tmp_path / "units").mkdir()
    host = UnitHost(Writer, ({}, tmp_path), 1)
    assert host.run(tmp_path / "units", Attempt(Unit("u", "x", Tally(1, 1.0)), is_probe=True)) is None
    assert list((tmp_path / "units").iterdir()) == []


@pytest.mark.parametrize(("reason", "again"), [(CHANGED, True), ("undecodable", False)])
def test_only_units_that_missed_changed_recordings_are_done_again_by_a_later_run(
    tmp_path: Path, reason: str, again: bool
) -> None:
    """Their audio may be back; a verdict about a recording stays."""
    missed, whole = Unit("missed", Rows(3, {1: (reason, "x")}), Tally(3, 3.0)), Unit("whole", Rows(3), Tally(3, 3.0))
    for unit in (missed, whole):
        run(tmp_path, unit, deadly=set())
    queue = UnitQueue("demo", [missed, whole], tmp_path / "units", tmp_path, 0)
    assert [attempt.unit.name for attempt in queue.pending] == ["missed"] * again
    assert set(done_units(tmp_path / "units")) == ({"whole"} if again else {"missed", "whole"})
