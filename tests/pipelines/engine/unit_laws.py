"""Laws of every runner of units, for the tests of the runners in this process and on Ray."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest

from flowse.errors import UserError
from pipelines.engine.accounts import Tally
from pipelines.engine.backend import UnitRunner
from pipelines.engine.records import QUARANTINE_SUFFIX
from pipelines.engine.units import done_units
from tests.pipelines.engine.writer import run_writer


class UnitLaws:
    """Laws that hold for `map_units`, which a subclass sets as a static method."""

    map_units: ClassVar[UnitRunner]

    def test_every_unit_is_done_once_and_the_accounts_add_up(self, tmp_path: Path) -> None:
        report = run_writer(self.map_units, tmp_path, 7, unit3="reject")
        assert report.taken == Tally(7, 7.0)
        assert report.kept == Tally(6, 6.0)
        assert report.failed == {"undecodable": Tally(1, 1.0)}
        assert report.metrics == {"bytes": 6 * len("unit0")}
        assert sorted(done_units(tmp_path / "out")) == [f"part-{number}" for number in range(7)]

    def test_a_unit_that_always_fails_is_quarantined_and_the_others_go_on(self, tmp_path: Path) -> None:
        report = run_writer(self.map_units, tmp_path, 4, unit1="raise")
        assert report.quarantined == ("part-1",)
        assert report.taken == Tally(3, 3.0)
        note = tmp_path / "out" / f"part-1{QUARANTINE_SUFFIX}"
        assert "a bug in the worker" in note.read_text()
        assert run_writer(self.map_units, tmp_path, 4).quarantined == ()
        assert not note.exists()

    def test_a_rerun_does_only_what_is_missing(self, tmp_path: Path) -> None:
        run_writer(self.map_units, tmp_path, 4)
        (tmp_path / "out" / "part-2.txt").unlink()
        for mark in (tmp_path / "marks").iterdir():
            mark.unlink()
        run_writer(self.map_units, tmp_path, 4)
        assert [mark.name for mark in (tmp_path / "marks").iterdir()] == ["unit2"]

    @pytest.mark.parametrize(
        ("trouble", "message"),
        [
            ({"unit0": "disk"}, "the disk is full"),
            ({"unit0": "user"}, "mend it"),
            ({"setup": "model.pt"}, "could not be set up: FileNotFoundError: no model at model.pt"),
        ],
    )
    def test_what_a_person_must_mend_stops_the_stage_in_one_line(
        self, tmp_path: Path, trouble: Any, message: str
    ) -> None:
        with pytest.raises(UserError, match=message):
            run_writer(self.map_units, tmp_path, 3, **trouble)
