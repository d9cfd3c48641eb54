"""How long does a first-time user wait, from a clone to an enhanced file, and to the demo's report?

    python -m tests.benchmarks.first_time [--python PYTHON] [--torch WORD…] [--report] [--folder DIR]

It clones this repository and does what the README says, each command timed: an environment for the CPU with the wheel
of the library alone, `flowse enhance` on the example, and how long `import flowse` takes beyond an empty program. With
`--report` it also runs `make pipeline` twice: the first call makes the environment and the demo's report, the second
finds all fresh. The times depend on how near the registry is; the machine's load stands in the first line.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tests.benchmarks.machine import describe, table

ROOT = Path(__file__).parents[2]
CPU_TORCH = ("torch", "--index-url", "https://download.pytorch.org/whl/cpu")


def timed(rows: list[list[str]], what: str, words: Sequence[str | Path], folder: Path) -> float:
    """Run a command in a folder, as a user without this project's environment would, and note how long it took."""
    begun = time.perf_counter()
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(list(map(str, words)), cwd=folder, env=environment, capture_output=True, text=True)
    took = time.perf_counter() - begun
    if done.returncode:
        print(done.stdout[-2000:], done.stderr[-4000:], file=sys.stderr)
        sys.exit(f"{what} ended with {done.returncode}")
    rows.append([what, f"{took:.1f} s"])
    print(f"{what}: {took:.1f} s", flush=True)
    return took


def import_s(python: Path, module: str) -> float:
    """Return how much longer a program with an import takes than an empty one; the least of five."""
    words = {"": [python, "-c", "pass"], module: [python, "-c", f"import {module}"]}
    took: dict[str, list[float]] = {"": [], module: []}
    for _ in range(5):
        for name, line in words.items():
            begun = time.perf_counter()
            subprocess.run(line, check=True, cwd="/")
            took[name].append(time.perf_counter() - begun)
    return min(took[module]) - min(took[""])


def folder_mb(folder: Path) -> int:
    """Return the size of all files of a folder, in MB, as `du -sm` counts them."""
    return int(subprocess.run(["du", "-sm", folder], capture_output=True, text=True, check=True).stdout.split()[0])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--python", default="python3.11", help="interpreter (default: %(default)s)")
    parser.add_argument("--torch", nargs="+", default=CPU_TORCH, help="words for pip that install torch for CPUs")
    parser.add_argument("--report", action="store_true", help="run `make pipeline` too: about 6 GB and 10 minutes")
    parser.add_argument("--folder", type=Path, help="work here and keep it (default: a temporary folder)")
    arguments = parser.parse_args()
    print(describe(), flush=True)
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="first-time-"))
    folder.mkdir(parents=True, exist_ok=True)
    rows: list[list[str]] = []
    try:
        timed(rows, "git clone", ["git", "clone", "--quiet", ROOT, folder / "clone"], folder)
        clone, venv = folder / "clone", folder / "clone" / "venv"
        begun = time.perf_counter()
        timed(rows, "venv", [arguments.python, "-m", "venv", "venv"], clone)
        timed(rows, "pip install torch, for CPUs", [venv / "bin/pip", "install", "--quiet", *arguments.torch], clone)
        timed(rows, "wheel", [venv / "bin/pip", "wheel", "--quiet", "--no-deps", ".", "-w", "dist"], clone)
        (wheel,) = (clone / "dist").glob("*.whl")
        timed(rows, "pip install wheel", [venv / "bin/pip", "install", "--quiet", wheel], clone)
        enhance = [venv / "bin/flowse", "enhance", "docs/example/noisy.wav", "enhanced.wav"]
        timed(rows, "flowse enhance, first", enhance, clone)
        rows.append(["clone → enhanced file", f"{time.perf_counter() - begun:.1f} s"])
        timed(rows, "flowse enhance, again", [*enhance, "--overwrite"], clone)
        rows.append(["import flowse", f"{import_s(venv / 'bin/python', 'flowse'):.2f} s"])
        rows.append(["import torch", f"{import_s(venv / 'bin/python', 'torch'):.2f} s"])
        rows.append(["wheel", f"{wheel.stat().st_size / 1e6:.1f} MB"])
        rows.append(["environment", f"{folder_mb(venv):,} MB"])
        if arguments.report:
            begun = time.perf_counter()
            timed(rows, "make setup", ["make", "setup", f"PYTHON={arguments.python}"], clone)
            timed(rows, "make pipeline", ["make", "pipeline"], clone)
            (report,) = (clone / "runs/demo/evaluate").glob("*/report.html")
            rows.append(["clone → demo report", f"{time.perf_counter() - begun:.1f} s"])
            rows.append(["report.html", f"{report.stat().st_size / 1e6:.1f} MB"])
            timed(rows, "make pipeline, again", ["make", "pipeline"], clone)
            rows.append([".venv", f"{folder_mb(clone / '.venv'):,} MB"])
    finally:
        if arguments.folder is None:
            shutil.rmtree(folder, ignore_errors=True)
    print(table(("what", "measured"), rows))


if __name__ == "__main__":
    main()
