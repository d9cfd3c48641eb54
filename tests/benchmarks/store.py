"""What do the commands cost on a workspace of 200,000 units in a store that takes 20 ms a request?

    python -m tests.benchmarks.store [--units 200000] [--delay-ms 20]

The units are those of `tests.benchmarks.units`, served by a made-up S3 server on loopback (`made_store`), which runs in
this process and on this machine's cores. Each command runs twice: on a machine that has copies of nothing, and again.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

from pipelines.engine import workspace
from pipelines.engine.records import UnitRecord
from tests.benchmarks import units as units_benchmark
from tests.benchmarks.machine import describe, table
from tests.benchmarks.made_store import MadeStore, serving
from tests.benchmarks.units import LAST, SUFFIXES, make_workspace, measured
from tests.pipelines.engine.s3 import KEYS


class _Known:
    """The units of a folder that has none of their files; stands for `pipelines.engine.units.DoneUnits`."""

    records: ClassVar[dict[Path, list[UnitRecord]]] = {}

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        units = self.records.get(folder, [])
        self.names = frozenset(name for unit in units for name in (f"{unit.unit}.json", *unit.files))

    def __contains__(self, unit: str) -> bool:
        return f"{unit}.json" in self.names


@contextmanager
def known_units() -> Iterator[dict[Path, list[UnitRecord]]]:
    """Let the units that are laid out be there without their files, which no command reads: 600,000 take minutes."""
    before, lay_out = workspace.DoneUnits, units_benchmark.lay_out

    def noted(folder: Path, *arguments: Any, **options: Any) -> list[UnitRecord]:
        _Known.records[folder] = lay_out(folder, *arguments, **options)
        return _Known.records[folder]

    workspace.DoneUnits, units_benchmark.lay_out = _Known, noted  # type: ignore[assignment, misc]
    try:
        yield _Known.records
    finally:
        workspace.DoneUnits, units_benchmark.lay_out = before, lay_out  # type: ignore[misc]


def objects_of(known: Mapping[Path, Sequence[UnitRecord]], folder: Path) -> Iterator[str]:
    """Yield the names that files and records of units have in a store."""
    for units, records in known.items():
        for record in records:
            begin = units.relative_to(folder).as_posix()
            yield f"{begin}/{record.unit}.json"
            yield from (f"{begin}/{name}@{facts.sha256[:16]}" for name, facts in record.files.items())


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--units", type=int, default=200_000)
    parser.add_argument("--delay-ms", type=float, default=20.0)
    arguments = parser.parse_args()
    print(describe())
    with tempfile.TemporaryDirectory() as name:
        folder, begun = Path(name), time.perf_counter()
        with known_units() as known:
            experiment, _ = make_workspace(folder, arguments.units // len(SUFFIXES), files_too=False)
        store = MadeStore(folder / "w", "ws", arguments.delay_ms / 1e3, objects_of(known, folder / "w"))
        print(f"{arguments.units:,} units, {len(store.names):,} objects made in {time.perf_counter() - begun:.0f} s")
        rows = []
        with serving(store) as address:
            os.environ.update(KEYS | {"AWS_ENDPOINT_URL": address})
            for command in (["status"], ["explain", LAST], ["gc"], ["run", f"..{LAST}"]):
                for machine in ("new", "known"):
                    scratch = folder / f"copies-{command[0]}"
                    words = [sys.executable, "-m", "pipelines", *command, experiment, "--workspace=s3://bucket/ws",
                             f"--set=cluster.scratch={scratch}"]  # fmt: skip
                    store.requests.clear()
                    cpu_s, wall_s, peak = measured(words)
                    asked = ", ".join(f"{kind} {count:,}" for kind, count in sorted(store.requests.items()))
                    cells = (f"{cpu_s:.1f}", f"{wall_s:.1f}", f"{peak:,.0f}", asked)
                    rows.append((f"{command[0]}, {machine} machine", *cells))
        print(table(("command", "processor s", "wall s", "peak MiB", "requests"), rows))
        print("goal: status at most 15 s, a driver at most 2,048 MiB")


if __name__ == "__main__":
    main()
