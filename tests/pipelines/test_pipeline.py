"""The whole program on a small made corpus: real Ray, real MLflow, real models, and what happens when things die."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from flowse.data.manifest import Reject, read_rows
from pipelines.ledger import STAGE_RECORD

ROOT = Path(__file__).parents[2]
SMALL = {
    "ingest.utterances_per_unit": 8,
    "ingest.splits.dev": 0.2,
    "ingest.splits.test": 0.2,
    "rooms.train_rooms": 2,
    "rooms.dev_rooms": 1,
    "rooms.test_rooms": 1,
    "simulate.mixtures_per_shard": 4,
    "train.max_steps": 3,
    "cluster.num_cpus": 2,
    "cluster.stages.train.workers": 2,
}


def command(workspace: Path, *words: str, experiment: str = "demo", **settings: Any) -> list[str]:
    overrides = [f"--set={key}={value}" for key, value in {**SMALL, **settings}.items()]
    return [
        sys.executable,
        "-m",
        "pipelines",
        *words,
        f"--experiment={ROOT / 'configs' / 'experiment' / experiment}.yaml",
        f"--cluster={ROOT / 'configs' / 'cluster' / 'local.yaml'}",
        f"--workspace={workspace}",
        *overrides,
    ]


def call(workspace: Path, *words: str, code: int = 0, **settings: Any) -> str:
    done = subprocess.run(
        command(workspace, *words, **settings), cwd=ROOT, capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == code, f"exit {done.returncode}:\n{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stdout + done.stderr
    return done.stdout + done.stderr


def states(workspace: Path, **settings: Any) -> dict[str, str]:
    status = json.loads(call(workspace, "status", "--json", **settings))
    return {name: row["state"] for name, row in status.items()}


def shards(workspace: Path) -> dict[str, bytes]:
    (folder,) = [path for path in (workspace / "simulate").iterdir() if (path / STAGE_RECORD).exists()]
    return {path.name: path.read_bytes() for path in folder.glob("*.tar")}
