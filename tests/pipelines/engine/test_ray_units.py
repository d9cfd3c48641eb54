"""Units on a real Ray: exactly once, whatever dies, and the same bytes whoever does them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import ray

from flowse.errors import UserError
from pipelines.engine import local_units
from pipelines.engine.accounts import Tally
from pipelines.engine.ray_units import map_units
from pipelines.engine.records import QUARANTINE_SUFFIX
from pipelines.engine.resources import Resources
from pipelines.engine.workspace import done_units
from tests.pipelines.engine import writer
from tests.pipelines.engine.writer import Writer, contents, run_writer, units

for module in (writer, sys.modules[__name__]):
    ray.cloudpickle.register_pickle_by_value(module)
pytestmark = pytest.mark.usefixtures("local_ray")


def test_every_unit_is_done_once_and_the_accounts_add_up(tmp_path: Path) -> None:
    report = run_writer(map_units, tmp_path, 7, unit3="reject")
    assert report.taken == Tally(7, 7.0)
    assert report.kept == Tally(6, 6.0)
    assert report.failed == {"undecodable": Tally(1, 1.0)}
    assert report.metrics == {"bytes": 6 * len("unit0")}
    assert sorted(done_units(tmp_path / "out")) == [f"part-{number}" for number in range(7)]


def test_one_worker_and_four_and_this_process_write_the_same_bytes(tmp_path: Path) -> None:
    reports = [
        run_writer(map_units, tmp_path / "one", 5, Resources(workers=1), unit1="reject"),
        run_writer(map_units, tmp_path / "four", 5, Resources(workers=4), unit1="reject"),
        run_writer(local_units.map_units, tmp_path / "here", 5, unit1="reject"),
    ]
    assert reports[0] == reports[1] == reports[2]
    assert contents(tmp_path / "one") == contents(tmp_path / "four") == contents(tmp_path / "here")


@pytest.mark.parametrize("trouble", ["kill", "hang", "raise once"])
def test_after_a_passing_trouble_the_output_is_the_undisturbed_one(tmp_path: Path, trouble: str) -> None:
    run_writer(map_units, tmp_path / "undisturbed", 4)
    report = run_writer(map_units, tmp_path / "disturbed", 4, Resources(workers=2, unit_timeout_s=5.0), unit2=trouble)
    assert report.quarantined == ()
    assert contents(tmp_path / "disturbed") == contents(tmp_path / "undisturbed")


def test_a_unit_that_always_fails_is_quarantined_and_the_others_go_on(tmp_path: Path) -> None:
    report = run_writer(map_units, tmp_path, 4, unit1="raise")
    assert report.quarantined == ("part-1",)
    assert report.taken == Tally(3, 3.0)
    note = tmp_path / "out" / f"part-1{QUARANTINE_SUFFIX}"
    assert "a bug in the worker" in note.read_text()
    report = run_writer(map_units, tmp_path, 4)
    assert report.quarantined == ()
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


def test_a_worker_that_no_node_can_hold_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cluster.stages.demo.num_cpus"):
        run_writer(map_units, tmp_path, 1, Resources(num_cpus=64))


class Unloadable:
    """A worker whose arguments cannot be read where it is to run, as on a node that lacks the code."""

    def __reduce__(self) -> tuple[Any, tuple[()]]:
        return _fail_to_load, ()


def _fail_to_load() -> None:
    raise ModuleNotFoundError("No module named 'pipelines'")


def test_workers_that_cannot_even_start_end_the_stage(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no worker can be started"):
        map_units("s", Writer, ({}, Unloadable()), units(2), folder=tmp_path, resources=Resources(workers=2), retries=1)


def test_units_do_not_wait_for_a_worker_that_the_cluster_has_no_room_for(tmp_path: Path) -> None:
    # Four workers of two CPUs are asked for; the cluster's four CPUs hold two.
    report = run_writer(map_units, tmp_path, 6, Resources(workers=4, num_cpus=2))
    assert report.kept == Tally(6, 6.0)
