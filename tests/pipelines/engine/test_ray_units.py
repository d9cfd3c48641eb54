"""Units on a real Ray: exactly once, whatever dies, and the same bytes whoever does them."""

from __future__ import annotations

import errno
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import ray

from flowse.data.manifest import Reject
from flowse.errors import UserError
from pipelines.engine.accounts import StageReport, Tally, UnitReport
from pipelines.engine.ledger import QUARANTINE_SUFFIX, done_units
from pipelines.engine.ray_units import map_units
from pipelines.engine.stage import Resources, Unit, UnitOutput

ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
pytestmark = pytest.mark.usefixtures("local_ray")


class Writer:
    """Writes its payload; `trouble` names a unit and what goes wrong there the first time."""

    def __init__(self, trouble: dict[str, str], marks: Path) -> None:
        if "setup" in trouble:
            raise FileNotFoundError(f"no model at {trouble['setup']}")
        self._trouble, self._marks = trouble, marks

    def __call__(self, payload: str, output: UnitOutput) -> UnitReport:
        output.path(".txt").write_text(payload)
        mark = self._marks / payload
        seen = mark.exists()
        mark.touch()
        trouble = self._trouble.get(payload, "")
        if trouble == "kill" and not seen:
            os.kill(os.getpid(), signal.SIGKILL)
        if trouble == "hang" and not seen:
            time.sleep(60)
        if trouble == "raise once" and not seen:
            raise RuntimeError("passing weakness")
        if trouble == "raise":
            raise RuntimeError("a bug in the worker")
        if trouble == "disk":
            raise OSError(errno.ENOSPC, "No space left on device")
        if trouble == "user":
            raise UserError("corpus 'x': mend it")
        if trouble == "reject":
            reject = Reject(utt_id=payload, corpus="c", stage="s", kind="failed", reason="undecodable", duration_s=1.0)
            return UnitReport(kept=Tally(), rejects=(reject,))
        return UnitReport(kept=Tally(1, 1.0), metrics={"bytes": len(payload)})


def units(count: int) -> list[Unit]:
    return [Unit(f"part-{number}", f"unit{number}", Tally(1, 1.0)) for number in range(count)]


def go(tmp_path: Path, count: int, resources: Resources | None = None, **trouble: str) -> StageReport:
    for name in ("out", "marks"):
        (tmp_path / name).mkdir(parents=True, exist_ok=True)
    return map_units(
        "demo",
        Writer,
        (trouble, tmp_path / "marks"),
        units(count),
        folder=tmp_path / "out",
        resources=resources or Resources(workers=2),
        retries=1,
    )


def contents(tmp_path: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir() if not path.name.startswith(".")}


def test_every_unit_is_done_once_and_the_books_add_up(tmp_path: Path) -> None:
    report = go(tmp_path, 7, unit3="reject")
    assert report.taken == Tally(7, 7.0)
    assert report.kept == Tally(6, 6.0)
    assert report.failed == {"undecodable": Tally(1, 1.0)}
    assert report.metrics == {"bytes": 6 * len("unit0")}
    assert sorted(done_units(tmp_path / "out")) == [f"part-{number}" for number in range(7)]


def test_one_worker_and_four_write_the_same_bytes(tmp_path: Path) -> None:
    go(tmp_path / "a", 5, Resources(workers=1))
    go(tmp_path / "b", 5, Resources(workers=4))
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


@pytest.mark.parametrize("trouble", ["kill", "hang", "raise once"])
def test_after_a_passing_trouble_the_output_is_the_undisturbed_one(tmp_path: Path, trouble: str) -> None:
    go(tmp_path / "calm", 4)
    report = go(tmp_path / "rough", 4, Resources(workers=2, unit_timeout_s=5.0), unit2=trouble)
    assert report.quarantined == ()
    assert contents(tmp_path / "rough") == contents(tmp_path / "calm")


def test_a_unit_that_always_fails_is_quarantined_and_the_others_go_on(tmp_path: Path) -> None:
    report = go(tmp_path, 4, unit1="raise")
    assert report.quarantined == ("part-1",)
    assert report.taken == Tally(3, 3.0)
    note = tmp_path / "out" / f"part-1{QUARANTINE_SUFFIX}"
    assert "a bug in the worker" in note.read_text()
    report = go(tmp_path, 4)
    assert report.quarantined == ()
    assert not note.exists()


def test_a_rerun_does_only_what_is_missing(tmp_path: Path) -> None:
    go(tmp_path, 4)
    (tmp_path / "out" / "part-2.txt").unlink()
    for mark in (tmp_path / "marks").iterdir():
        mark.unlink()
    go(tmp_path, 4)
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
        go(tmp_path, 3, **trouble)


def test_a_worker_that_no_node_can_hold_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cluster.stages.demo.num_cpus"):
        go(tmp_path, 1, Resources(num_cpus=64))


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
    report = go(tmp_path, 6, Resources(workers=4, num_cpus=2))
    assert report.kept == Tally(6, 6.0)
