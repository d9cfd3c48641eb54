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
from pathlib import Path

from tests.benchmarks.machine import describe, table
from tests.benchmarks.made_store import MadeStore, serving
from tests.benchmarks.units import LAST, SUFFIXES, make_workspace, measured
from tests.pipelines.engine.s3 import KEYS


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--units", type=int, default=200_000)
    parser.add_argument("--delay-ms", type=float, default=20.0)
    arguments = parser.parse_args()
    print(describe())
    with tempfile.TemporaryDirectory() as name:
        folder, begun = Path(name), time.perf_counter()
        experiment, _ = make_workspace(folder, arguments.units // len(SUFFIXES))
        store = MadeStore(folder / "w", "ws", arguments.delay_ms / 1e3)
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
