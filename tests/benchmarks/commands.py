"""How much processor time do the commands take that only read records, and what do they import?

    python -m tests.benchmarks.commands [--repeats 5] [--workspace DIR] [--experiment FILE]

Each command is a process of its own. Its processor time (user and system) is the least of some repeats: the machine
may be busy, and a busy machine only adds to it. `--workspace` and `--experiment` name a workspace with finished stages;
the default is an empty one. The table also names the large libraries that a command imported.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.benchmarks.machine import describe, table

ROOT = Path(__file__).parents[2]
LARGE = ("torch", "ray", "mlflow", "pandas", "scipy", "matplotlib", "omegaconf", "pyarrow", "numpy", "yaml")


def processor_s(words: Sequence[str]) -> float:
    """Run a command; return the seconds of processor time that it took, its children included."""
    before = os.times()
    subprocess.run(words, cwd=ROOT, stdout=subprocess.DEVNULL, check=True)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def imported(words: Sequence[str]) -> list[str]:
    """Run a Python command once more, and return the large libraries that it imported."""
    python, *rest = words
    traced = subprocess.run(
        [python, "-X", "importtime", *rest], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        check=True,
    ).stderr  # fmt: skip
    names = {line.rpartition("|")[2].strip() for line in traced.splitlines() if line.startswith("import time:")}
    return [name for name in LARGE if name in names]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5, help="times that each command is run (default: %(default)s)")
    parser.add_argument("--workspace", type=Path, help="a workspace with finished stages (default: an empty one)")
    parser.add_argument("--experiment", type=Path, help="the experiment that made it")
    arguments = parser.parse_args()
    pipelines, flowse = [sys.executable, "-m", "pipelines"], [sys.executable, "-m", "flowse.cli"]
    with tempfile.TemporaryDirectory() as empty:
        where = ["--workspace", str((arguments.workspace or Path(empty)).resolve())]
        if arguments.experiment:
            where += ["--experiment", str(arguments.experiment.resolve())]
        commands = {
            "pipelines --help": [*pipelines, "--help"],
            "pipelines status": [*pipelines, "status", *where],
            "pipelines explain train": [*pipelines, "explain", "train", *where],
            "pipelines rejects": [*pipelines, "rejects", *where],
            "flowse --version": [*flowse, "--version"],
            "flowse --help": [*flowse, "--help"],
        }
        print(describe())
        rows = [
            (name, f"{min(processor_s(words) for _ in range(arguments.repeats)):.2f}", ", ".join(imported(words)))
            for name, words in commands.items()
        ]
    print(table(("command", "processor s", "large imports"), rows))
    print("goal: at most 0.5 s each, without torch, ray, mlflow, pandas, scipy and matplotlib")


if __name__ == "__main__":
    main()
