"""Units in this process keep the laws of those on Ray: once each, tried again where they broke, then quarantined."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from flowse.errors import UserError
from pipelines.engine.accounts import Tally, UnitReport
from pipelines.engine.local_units import map_units
from pipelines.engine.records import QUARANTINE_SUFFIX
from pipelines.engine.resources import Resources
from pipelines.engine.stage import UnitOutput
from pipelines.engine.workspace import done_units
from tests.pipelines.engine.writer import contents, run_writer, units


def test_every_unit_is_done_once_and_the_accounts_add_up(tmp_path: Path) -> None:
    report = run_writer(map_units, tmp_path, 7, unit3="reject")
    assert report.taken == Tally(7, 7.0)
    assert report.kept == Tally(6, 6.0)
    assert report.failed == {"undecodable": Tally(1, 1.0)}
    assert report.metrics == {"bytes": 6 * len("unit0")}
    assert sorted(done_units(tmp_path / "out")) == [f"part-{number}" for number in range(7)]


def test_a_unit_that_breaks_once_is_tried_again_and_leaves_the_same_output(tmp_path: Path) -> None:
    run_writer(map_units, tmp_path / "undisturbed", 4)
    report = run_writer(map_units, tmp_path / "disturbed", 4, unit2="raise once")
    assert report.quarantined == ()
    assert contents(tmp_path / "disturbed") == contents(tmp_path / "undisturbed")


def test_a_unit_that_always_fails_is_quarantined_and_the_others_go_on(tmp_path: Path) -> None:
    report = run_writer(map_units, tmp_path, 4, unit1="raise")
    assert report.quarantined == ("part-1",)
    assert report.taken == Tally(3, 3.0)
    note = tmp_path / "out" / f"part-1{QUARANTINE_SUFFIX}"
    assert "a bug in the worker" in note.read_text()
    assert run_writer(map_units, tmp_path, 4).quarantined == ()
    assert not note.exists()


def test_a_rerun_does_only_what_is_missing(tmp_path: Path) -> None:
    run_writer(map_units, tmp_path, 4)
    (tmp_path / "out" / "part-2.txt").unlink()
    for mark in (tmp_path / "marks").iterdir():
        mark.unlink()
    run_writer(map_units, tmp_path, 4)
    assert [mark.name for mark in (tmp_path / "marks").iterdir()] == ["unit2"]


@pytest.mark.parametrize(
    ("trouble", "message"),
    [
        ({"unit0": "disk"}, "the disk is full"),
        ({"unit0": "user"}, "mend it"),
        ({"setup": "model.pt"}, "could not be set up: FileNotFoundError: no model at model.pt"),
    ],
)
def test_what_a_person_must_mend_stops_the_stage_in_one_line(tmp_path: Path, trouble: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        run_writer(map_units, tmp_path, 3, **trouble)


def test_unit_names_that_repeat_are_a_mistake_of_the_stage(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="demo: unit names repeat"):
        map_units("demo", Threads, (), units(1) * 2, folder=tmp_path, resources=Resources(), retries=0)


class Threads:
    """Reports with how many threads torch works."""

    def __call__(self, payload: str, output: UnitOutput) -> UnitReport:
        return UnitReport(kept=Tally(1, 1.0), metrics={"threads": torch.get_num_threads()})


def test_a_worker_has_the_threads_that_it_asks_for_and_the_caller_keeps_its_own(tmp_path: Path) -> None:
    before = torch.get_num_threads()
    report = map_units("s", Threads, (), units(1), folder=tmp_path, resources=Resources(num_cpus=before + 2), retries=0)
    assert report.metrics["threads"] == before + 2
    assert torch.get_num_threads() == before
