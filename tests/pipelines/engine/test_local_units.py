"""Units in this process keep the laws of those on Ray: once each, tried again where they broke, then quarantined."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pipelines.engine.accounts import Tally, UnitReport
from pipelines.engine.local_units import map_units
from pipelines.engine.resources import Resources
from pipelines.engine.stage import UnitOutput
from pipelines.engine.units import PAGES, read_pages
from tests.pipelines.engine.unit_laws import UnitLaws
from tests.pipelines.engine.writer import contents, run_writer, units


class TestUnitsInThisProcess(UnitLaws):
    map_units = staticmethod(map_units)


def test_a_unit_that_breaks_once_is_tried_again_and_leaves_the_same_output(tmp_path: Path) -> None:
    run_writer(map_units, tmp_path / "undisturbed", 4)
    report = run_writer(map_units, tmp_path / "disturbed", 4, unit2="raise once")
    assert report.quarantined == ()
    assert contents(tmp_path / "disturbed") == contents(tmp_path / "undisturbed")


def test_unit_names_that_repeat_are_a_mistake_of_the_stage(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="demo: unit names repeat"):
        map_units("demo", Threads, (), units(1) * 2, folder=tmp_path, notes=tmp_path, resources=Resources(), retries=0)


class Threads:
    """Reports with how many threads torch works."""

    def __call__(self, payload: str, output: UnitOutput) -> UnitReport:
        return UnitReport(kept=Tally(1, 1.0), metrics={"threads": torch.get_num_threads()})


def test_a_worker_has_the_threads_that_it_asks_for_and_the_caller_keeps_its_own(tmp_path: Path) -> None:
    before = torch.get_num_threads()
    resources = Resources(num_cpus=before + 2)
    outcome = map_units("s", Threads, (), units(1), folder=tmp_path, notes=tmp_path, resources=resources, retries=0)
    assert outcome.report.metrics["threads"] == before + 2
    assert torch.get_num_threads() == before


def test_what_a_driver_left_without_a_page_is_paged_by_the_next(tmp_path: Path) -> None:
    out = tmp_path / "out"
    run_writer(map_units, tmp_path, 3)
    for page in (tmp_path / PAGES).iterdir():
        page.unlink()
    run_writer(map_units, tmp_path, 4)
    assert set(read_pages(out, {f"part-{number}" for number in range(4)})) == {f"part-{number}" for number in range(4)}
