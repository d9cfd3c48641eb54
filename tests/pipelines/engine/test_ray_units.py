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
from pipelines.engine.resources import Resources
from tests.pipelines.engine import writer
from tests.pipelines.engine.unit_laws import UnitLaws
from tests.pipelines.engine.writer import Writer, contents, run_writer, units

for module in (writer, sys.modules[__name__]):
    ray.cloudpickle.register_pickle_by_value(module)
pytestmark = pytest.mark.usefixtures("local_ray")


class TestUnitsOnRay(UnitLaws):
    map_units = staticmethod(map_units)


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
        map_units(
            "s",
            Writer,
            ({}, Unloadable()),
            units(2),
            folder=tmp_path,
            notes=tmp_path,
            resources=Resources(workers=2),
            retries=1,
        )


def test_units_do_not_wait_for_a_worker_that_the_cluster_has_no_room_for(tmp_path: Path) -> None:
    # Four workers of two CPUs are asked for; the cluster's four CPUs hold two.
    report = run_writer(map_units, tmp_path, 6, Resources(workers=4, num_cpus=2))
    assert report.kept == Tally(6, 6.0)
