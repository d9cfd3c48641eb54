"""What do units cost: the commit of one, and the commands that look at a workspace of 200,000 of them?

    python -m tests.benchmarks.units [--units 200000] [--timed 400] [--workers N] [--folder DIR]

A workspace of made-up units, as many in each of five data stages as in the others, is laid on disk by the same code
that lays real ones, but for the syncs; every stage is finished and fresh. Each command then runs as a process of its
own, and its processor time, its wall time and its peak of memory are printed. So are those of a driver that takes up a
stage of 200,000 units of which three are new, and the time that the hand-out and the commit (sync, hash, record) of a
unit takes that does nothing but write one small file and one reject row, with Ray.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from flowse.data.manifest import Reject
from pipelines.engine import units as units_module
from pipelines.engine.accounts import Tally, UnitReport, account_unit, merge
from pipelines.engine.context import Context
from pipelines.engine.fingerprint import UnitKeys, unit_settings
from pipelines.engine.plan import StagePlan, plan_stage
from pipelines.engine.records import IDENTITY_RECORD, FileFacts, RunFacts, UnitRecord, write_record
from pipelines.engine.resources import Resources
from pipelines.engine.stage import Unit, UnitOutput, reads_of
from pipelines.engine.units import PAGE_UNITS, UNITS
from pipelines.engine.workspace import commit_stage, units_of
from pipelines.experiment import STAGES, load_experiment
from tests.benchmarks.machine import describe, table

ROOT = Path(__file__).parents[2]
CONTENT = b"made up"
# The demo's corpora are made, so that nothing has to be listed.
EXPERIMENT: dict[str, Any] = {"name": "units", "ingest": {
    "speech": [{"name": "speech", "reader": "demo"}], "noise": [{"name": "noise", "reader": "demo"}],
}}  # fmt: skip
SUFFIXES = {
    "ingest": [".parquet"],
    "quality": [".parquet", ".rejects.parquet"],
    "filter_language": [".parquet", ".rejects.parquet"],
    "transcribe": [".parquet", ".rejects.parquet"],
    "simulate": [".tar", ".index.parquet", ".recipes.parquet"],
}
LAST = "simulate"


class Nothing:
    """Writes a small file and rejects one of two utterances."""

    def __call__(self, payload: str, output: UnitOutput) -> UnitReport:
        output.path(".txt").write_text(payload)
        reject = Reject(utt_id=payload, corpus="c", stage="s", kind="dropped", reason="too_short", duration_s=1.0)
        return UnitReport(kept=Tally(1, 1.0), rejects=(reject,), metrics={"bytes": len(payload)})


def units_made(count: int, first: int = 0) -> list[Unit[str]]:
    """Return units for `Nothing`."""
    return [Unit("part", f"{number}", Tally(2, 2.0), f"{number}") for number in range(first, first + count)]


def lay_out(folder: Path, names: Sequence[str], suffixes: Sequence[str], *, files_too: bool = True) -> list[UnitRecord]:
    """Write files, records and pages of units as a run would, without syncs; return the records.

    Args:
        folder: Of the units.
        names: Of the units.
        suffixes: Of each unit's files.
        files_too: Whether the files and records are written besides the pages.
    """
    facts = FileFacts(len(CONTENT), hashlib.sha256(CONTENT).hexdigest())
    taken, kept = Tally(500, 5000.0), Tally(480, 4800.0)
    report = account_unit(taken, UnitReport(kept, tuple(_rejects()), {"bytes": 1e8, "samples": 1e7}))
    folder.mkdir(parents=True)
    records = []
    for name in names:
        files = {f"{name}{suffix}": facts for suffix in suffixes}
        records.append(UnitRecord(name, files, report))
        if files_too:
            for file in files:
                (folder / file).write_bytes(CONTENT)
            write_quickly(folder / f"{name}.json", records[-1])
    for begin in range(0, len(records), PAGE_UNITS):
        units_module.write_page(folder, records[begin : begin + PAGE_UNITS])
    return records


def _rejects() -> Iterator[Reject]:
    for number in range(20):
        yield Reject(utt_id=f"{number}", corpus="c", stage="s", kind="dropped", reason="too_short", duration_s=10.0)


def write_quickly(path: Path, record: UnitRecord) -> None:
    """Write a record as `write_record` does, without its syncs."""
    import json

    from flowse.json_records import to_json

    path.write_text(json.dumps(to_json(record), indent=1, sort_keys=True, ensure_ascii=False) + "\n")


def make_workspace(folder: Path, count: int, *, files_too: bool = True) -> list[str]:
    """Make a workspace with `count` units a data stage; return the arguments that name it; see `lay_out`."""
    (folder / "experiment.yaml").write_text(yaml.safe_dump(EXPERIMENT))
    config = load_experiment(folder / "experiment.yaml")
    plans: dict[str, StagePlan] = {}
    for stage in STAGES:
        now = plan_stage(stage, config, folder / "w", plans)
        suffixes = SUFFIXES.get(stage.NAME, [])
        if now.folder is not None and (suffixes or stage.NAME == "rooms"):
            section = getattr(config, stage.NAME)
            keys = UnitKeys(stage.NAME, stage.REVISION, unit_settings(section), config.seed)
            names = [f"speech-{keys(str(number))}" for number in range(count if suffixes else 0)]
            now.folder.mkdir(parents=True)
            write_record(now.folder / IDENTITY_RECORD, now.identity)
            records = lay_out(units_of(now.folder), names, suffixes, files_too=files_too)
            parents = {name: (plans[name].fingerprint or "") for name in reads_of(stage, section)}
            run = RunFacts(code_commit="x", versions={}, seconds=1.0, finished_at="x", parents=parents)
            commit_stage(now.folder, merge(record.report for record in records), records, {}, run)
            now = plan_stage(stage, config, folder / "w", plans)
        plans[stage.NAME] = now
    assert plans[LAST].finished is not None, plans[LAST].reasons
    return [f"--experiment={folder / 'experiment.yaml'}", f"--workspace={folder / 'w'}"]


def measured(words: Sequence[str]) -> tuple[float, float, float]:
    """Run a command; return its processor time, its wall time, both in seconds, and its peak of memory in MiB."""
    begun = time.perf_counter()
    process = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    wall_s = time.perf_counter() - begun
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, words
    return used.ru_utime + used.ru_stime, wall_s, used.ru_maxrss / 1024


def take_up(folder: Path, count: int) -> None:
    """Let a driver take up a stage of which all units but three are done; `folder` is written at the first call."""
    context = Context(folder, name="nothing")
    if not context.units_folder.exists():
        names = [unit.name for unit in context.named(units_made(count))]
        lay_out(context.units_folder, names, [".parquet", ".rejects.parquet"])
        return
    report = context.map_units(Nothing, (), units_made(count, first=3))
    assert report.taken.utterances == 500 * (count - 3) + 2 * 3
    records = context.records()
    write_record(folder / IDENTITY_RECORD, plan_identity())
    facts = RunFacts(code_commit="x", versions={}, seconds=1.0, finished_at="x")
    (folder.parent / UNITS).symlink_to(context.units_folder)
    commit_stage(folder, report, records, {}, facts)


def plan_identity() -> Any:
    """Return any identity: that of a stage that does nothing."""
    from pipelines.engine.fingerprint import Identity

    return Identity("nothing", 1, 0, {}, {})


def through_ray(folder: Path, count: int, workers: int) -> tuple[float, float]:
    """Return wall seconds of a run of `count` units, and of a run of as many units as workers (starting them)."""
    from pipelines.engine.ray_units import map_units

    took = []
    for name, number in (("start", workers), ("all", workers + count)):
        (folder / name).mkdir(parents=True)
        begun = time.perf_counter()
        keyed = Context(folder / name).named(units_made(number))
        map_units("nothing", Nothing, (), keyed, folder=folder / name, notes=folder / name,
                  resources=Resources(workers=workers), retries=0)  # fmt: skip
        took.append(time.perf_counter() - begun)
    return took[1] - took[0], took[0]


def commands_table(folder: Path, count: int) -> str:
    """Measure the commands on a workspace of `count` units in all."""
    begun = time.perf_counter()
    where = make_workspace(folder, count // len(SUFFIXES))
    print(f"{count:,} units of {len(SUFFIXES)} stages laid out in {time.perf_counter() - begun:.0f} s", flush=True)
    python = [sys.executable, "-m", "pipelines"]
    commands = {
        "status": ["status", *where],
        f"explain {LAST}": ["explain", LAST, *where],
        "gc": ["gc", *where],
        f"run ..{LAST}, nothing to do": ["run", f"..{LAST}", *where],
    }
    rows = [(name, *_cells(measured([*python, *words]))) for name, words in commands.items()]
    me = [sys.executable, "-m", "tests.benchmarks.units", "--take-up", str(folder / "one" / "out"), "--units"]
    subprocess.run([*me, str(count)], cwd=ROOT, check=True)
    rows.append((f"a driver takes up a stage of {count:,} units, 3 new", *_cells(measured([*me, str(count)]))))
    return str(table(("command", "processor s", "wall s", "peak MiB"), rows))


def _cells(figures: tuple[float, float, float]) -> tuple[str, str, str]:
    return f"{figures[0]:.2f}", f"{figures[1]:.2f}", f"{figures[2]:,.0f}"


def ray_table(folder: Path, count: int, most: int) -> str:
    """Measure what Ray and the commit cost a unit, with one worker and with `most`."""
    import ray

    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    ray.init(address="local", num_cpus=most, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    rows = []
    for workers in sorted({1, most}):
        wall_s, start_s = through_ray(folder / f"with-{workers}", count, workers)
        rows.append((f"{workers} worker(s), {count} units", f"{wall_s / count * 1e3:.1f}",
                     f"{wall_s * workers / count * 1e3:.1f}", f"{start_s:.1f}"))  # fmt: skip
    ray.shutdown()
    return str(table(("", "ms a unit", "ms of a worker", "start s"), rows))


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--units", type=int, default=200_000)
    parser.add_argument("--timed", type=int, default=400, help="units that go through Ray; 0: none")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--folder", type=Path, help="where to lay the files out (default: a temporary folder)")
    parser.add_argument("--take-up", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.take_up:
        take_up(arguments.take_up, arguments.units)
        return
    print(describe())
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        print(commands_table(Path(name), arguments.units))
        print("goal: status at most 3 s, a driver at most 2,048 MiB\n")
        if arguments.timed:
            print(ray_table(Path(name) / "ray", arguments.timed, arguments.workers))
            print("goal: at most 50 ms of a worker")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"(this program's own peak: {peak:,.0f} MiB)")


if __name__ == "__main__":
    main()
