"""Units of the next stage are begun while a stage still runs, and are the units that the stage itself would do."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import pytest
import ray
from obstore.store import MemoryStore

from pipelines.engine import local_units, mirror, ray_units
from pipelines.engine.accounts import Tally, UnitReport
from pipelines.engine.backend import Backend
from pipelines.engine.cluster import connected_capacity
from pipelines.engine.context import Context
from pipelines.engine.fingerprint import UnitKeys
from pipelines.engine.follower import Follower, FollowerUnits
from pipelines.engine.resources import Resources
from pipelines.engine.stage import Following, Unit, UnitFile, UnitOutput
from pipelines.engine.store import Store
from pipelines.engine.units import UNITS, UnitFolder, done_units

ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
pytestmark = pytest.mark.usefixtures("local_ray")


class First:
    """Writes its payload; the unit "last" waits until the next stage has done a unit, or a minute has passed."""

    def __init__(self, marks: Path) -> None:
        self._marks = marks

    def __call__(self, payload: str, output: UnitOutput) -> UnitReport:
        end = time.monotonic() + 60
        while payload == "last" and not any(self._marks.iterdir()) and time.monotonic() < end:
            time.sleep(0.05)
        output.path(".txt").write_text(payload)
        return UnitReport(kept=Tally(1, 1.0))


class Second:
    """Copies the file of a unit and leaves a mark."""

    def __init__(self, marks: Path, trouble: str) -> None:
        self._marks, self._trouble = marks, trouble

    def __call__(self, payload: Path, output: UnitOutput) -> UnitReport:
        (self._marks / f"{output.name}.{time.monotonic_ns()}").touch()
        if self._trouble:
            raise RuntimeError(self._trouble)
        output.path(".copy").write_text(payload.read_text())
        return UnitReport(kept=Tally(1, 1.0))


def unit_of(file: UnitFile) -> Unit[Path]:
    return Unit(file.label, file.path, Tally(1, 1.0), file.sha256)


def run_first(folder: Path, trouble: str = "") -> Context:
    """Run the first stage on two workers, with the second following; return the first's context."""
    marks = folder / "marks"
    marks.mkdir(exist_ok=True)
    two = Resources(num_cpus=2)
    following = Following(Second, (marks, trouble), ".txt", unit_of)
    follower = Follower("second", following, UnitKeys("second"), folder / "second" / UNITS, two)
    backend = Backend(connected_capacity(), ray_units.map_units)
    context = Context(folder / "first", resources=two, backend=backend, follower=follower)
    units = [Unit(name, name, Tally(1, 1.0), name) for name in ("a", "b", "last")]
    context.map_units(First, (marks,), units)
    return context


def run_second(folder: Path, first: Context) -> list[str]:
    """Run the second stage in this process; return the names of the units that it had to do."""
    before = {path.name for path in (folder / "marks").iterdir()}
    second = Context(folder / "second", backend=Backend(first.capacity, local_units.map_units, local=True))
    second.map_units(Second, (folder / "marks", ""), [unit_of(file) for file in first.unit_files(".txt")])
    assert [path.read_text() for path in second.parts(".copy")] == ["a", "b", "last"]
    return sorted(path.name.split("-")[0] for path in (folder / "marks").iterdir() if path.name not in before)


def test_a_unit_is_begun_once_the_one_before_it_is_committed_and_never_done_again(tmp_path: Path) -> None:
    first = run_first(tmp_path)
    early = [record.unit.split("-")[0] for record in done_units(tmp_path / "second" / UNITS).values()]
    assert early
    assert set(early) <= {"a", "b"}  # the last unit of the first stage waited for one of these
    assert run_second(tmp_path, first) == sorted({"a", "b", "last"} - set(early))


def test_a_run_that_goes_on_follows_what_was_committed_before(tmp_path: Path) -> None:
    units: list[Unit[Any]] = [Unit(name, name, Tally(1, 1.0), name) for name in ("a", "b")]
    (tmp_path / "marks").mkdir()
    (tmp_path / "marks" / "any").touch()
    Context(tmp_path / "first").map_units(First, (tmp_path / "marks",), units)
    (tmp_path / "marks" / "any").unlink()
    first = run_first(tmp_path)
    assert set(run_second(tmp_path, first)) < {"a", "b", "last"}


def test_what_fails_early_is_left_to_the_stage_itself(tmp_path: Path) -> None:
    first = run_first(tmp_path, trouble="a bug")
    assert done_units(tmp_path / "second" / UNITS) == {}
    assert not list((tmp_path / "second").glob("*.quarantine.txt"))
    assert run_second(tmp_path, first) == ["a", "b", "last"]


def test_in_a_store_the_driver_fetches_the_file_of_each_committed_unit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirror, "_open", {})
    mirror.open_mirror(Store("memory://ws", MemoryStore()), tmp_path, ("first", "second"))
    folder = tmp_path / "first" / UNITS
    folder.mkdir(parents=True)
    records = []
    for name in ("a", "b", "c"):
        output = UnitFolder(folder, f"{name}-0123456789abcdef0123")
        output.path(".txt" if name != "c" else ".other").write_text(name)
        records.append(output.commit(Tally(1, 1.0), UnitReport(Tally(1, 1.0))))
        (folder / f"{records[-1].unit}.txt").unlink(missing_ok=True)  # another machine did the unit
    following = Following(Second, (tmp_path, ""), ".txt", read_unit)
    units = FollowerUnits(Follower("second", following, UnitKeys("second"), tmp_path / "second" / UNITS, Resources()))
    units.add(records, folder)
    end = time.monotonic() + 20
    while len(units.pending) < 2 and time.monotonic() < end:
        time.sleep(0.01)
    assert sorted(attempt.unit.payload.read_text() for attempt in units.pending) == ["a", "b"]
    units.end()
    units.add(records, folder)
    assert not units.pending


def read_unit(file: UnitFile) -> Unit[Path]:
    """As `unit_of`, of a file that has to be there."""
    return Unit(file.label, file.path, Tally(len(file.path.read_text()), 1.0), file.sha256)
