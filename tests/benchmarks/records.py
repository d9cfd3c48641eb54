"""What do Ray and the records cost a unit, and how long does it take to find that nothing is to do?

    python -m tests.benchmarks.records [--quick] [--units 10000] [--timed 400] [--workers N]

Units that do nothing but write one small file (and one reject row) go through `map_units`: what is left is the
handing out and the commit (sync, hash, record). Next, a stage of 10,000 such units is laid on disk by the same code,
and the ways of finding it finished are timed: `plan` of a committed stage (what `make pipeline`
does), `map_units` of one whose record was lost, and its commit.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import ray

from flowse import files
from flowse.data.manifest import Reject
from pipelines.engine.accounts import Tally, UnitReport
from pipelines.engine.fingerprint import Identity
from pipelines.engine.ray_units import map_units
from pipelines.engine.records import IDENTITY_RECORD, RunFacts, write_record
from pipelines.engine.resources import Resources
from pipelines.engine.stage import Unit, UnitOutput
from pipelines.engine.workspace import UnitFolder, commit_stage, done_units, open_stage
from tests.benchmarks.machine import describe, table


class Nothing:
    """Writes a small file and rejects one of two utterances."""

    def __call__(self, payload: str, output: UnitOutput) -> UnitReport:
        output.path(".txt").write_text(payload)
        reject = Reject(utt_id=payload, corpus="c", stage="s", kind="dropped", reason="too_short", duration_s=1.0)
        return UnitReport(kept=Tally(1, 1.0), rejects=(reject,), metrics={"bytes": len(payload)})


def units_of(count: int) -> list[Unit]:
    return [Unit(f"part-{number:05d}", f"{number}", Tally(2, 2.0)) for number in range(count)]


def through_ray(folder: Path, count: int, workers: int) -> tuple[float, float]:
    """Return wall seconds of a run of `count` units, and of a run of as many units as workers (starting them)."""
    took = []
    for name, number in (("start", workers), ("all", workers + count)):
        (folder / name).mkdir()
        begin = time.perf_counter()
        map_units("nothing", Nothing, (), units_of(number), folder=folder / name, resources=Resources(workers=workers),
                  retries=0)  # fmt: skip
        took.append(time.perf_counter() - begin)
    return took[1] - took[0], took[0]


def finished_stage(folder: Path, count: int) -> dict[str, float]:
    """Time what a rerun of a finished stage does."""
    worker, units, took = Nothing(), units_of(count), {}
    folder.mkdir()
    sync, files.sync = files.sync, lambda path: None  # laid out, not measured
    for unit in units:
        output = UnitFolder(folder, unit.name)
        output.commit(unit.taken, worker(unit.payload, output))
    files.sync = sync
    write_record(folder / IDENTITY_RECORD, Identity("nothing", 1, 0, {}, {}))

    def timed(what: str, go: Any) -> Any:
        begin = time.perf_counter()
        result = go()
        took[what] = time.perf_counter() - begin
        return result

    arguments: Any = {"folder": folder, "resources": Resources(workers=1), "retries": 0}
    report = timed("map_units, all units done", lambda: map_units("nothing", Nothing, (), units, **arguments))
    assert report.taken.utterances == 2 * count
    names = [unit.name for unit in units]
    run = RunFacts(code_commit="x", versions={}, seconds=1.0, finished_at="x")
    timed("commit of the stage", lambda: commit_stage(folder, report, names, {}, run))

    def plan() -> None:
        finished = open_stage(folder)
        assert finished is not None
        assert not finished.damaged()

    timed("plan of the committed stage", plan)
    timed("plan of one begun and not committed", lambda: done_units(folder))
    return took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the same 10,000 units, but 100 through Ray")
    parser.add_argument("--units", type=int, default=10_000)
    parser.add_argument("--timed", type=int, default=400)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    arguments = parser.parse_args()
    count = 100 if arguments.quick else arguments.timed
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    print(describe())
    with tempfile.TemporaryDirectory() as name:
        took = finished_stage(Path(name) / "finished", arguments.units)
        ray.init(address="local", num_cpus=arguments.workers, include_dashboard=False, log_to_driver=False,
                 logging_level="ERROR")  # fmt: skip
        rows = []
        for workers in (1, arguments.workers):
            folder = Path(name) / f"with-{workers}"
            folder.mkdir()
            wall_s, start_s = through_ray(folder, count, workers)
            rows.append((f"{workers} worker(s), {count} units", f"{wall_s / count * 1e3:.1f}",
                         f"{wall_s * workers / count * 1e3:.1f}", f"{start_s:.1f}"))  # fmt: skip
        ray.shutdown()
    print(table(("", "ms a unit", "ms of a worker", "start s"), rows), "\ngoal: at most 50 ms of a worker\n")
    print(table((f"{arguments.units:,} units", "s"), [(what, f"{seconds:.2f}") for what, seconds in took.items()]))
    print("goal: at most 3 s")


if __name__ == "__main__":
    main()
