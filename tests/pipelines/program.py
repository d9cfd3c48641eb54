"""The command line on a small made experiment, for the tests that need a whole workspace."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from pipelines.engine.records import STAGE_RECORD
from pipelines.engine.workspace import open_stage, units_of

ROOT = Path(__file__).parents[2]
STAGES = [
    "ingest", "rooms", "quality", "filter_language", "transcribe", "simulate", "train", "evaluate", "export", "enhance",
]  # fmt: skip

# The demo, small: the same stages, models and cluster, less of everything.
EXPERIMENT: dict[str, Any] = {
    "name": "small",
    "seed": 3,
    "ingest": {
        "speech": [
            {
                "name": "made",
                "reader": "demo",
                "options": {"speech_minutes": 2.0, "english_voices": 6, "mandarin_voices": 5},
            }
        ],
        "noise": [{"name": "noises", "reader": "demo", "options": {"noise_minutes": 1.2, "noise_clip_s": 3.0}}],
        "splits": {"dev": 0.25, "test": 0.25},
        "utterances_per_unit": 8,
    },
    "rooms": {"train_rooms": 2, "dev_rooms": 1, "test_rooms": 1, "rooms_per_unit": 2},
    "simulate": {"mixtures_per_shard": 3, "mixture": {"max_s": 5.0}},
    "train": {
        "model": {"dim": 32, "depth": 1, "heads": 2},
        "max_steps": 3,
        "frames_per_step": 800,
        "max_frames": 300,
        "validate_every": 3,
        "validation_utterances": 2,
        "examples": 1,
    },
    "evaluate": {"max_items": 2, "examples": 1, "sampling": {"steps": 2}},
}
CLUSTER: dict[str, Any] = {"num_cpus": 2, "stages": {"train": {"workers": 2, "num_cpus": 1}}}


def words(folder: Path, *command: str, **settings: Any) -> list[str]:
    """The command line for the workspace `folder/w`, with the experiment and cluster written beside it."""
    (folder / "experiment.yaml").write_text(yaml.safe_dump(EXPERIMENT))
    (folder / "cluster.yaml").write_text(yaml.safe_dump(CLUSTER))
    where = [f"--experiment={folder / 'experiment.yaml'}", f"--cluster={folder / 'cluster.yaml'}"]
    overrides = [f"--set={key.replace('__', '.')}={value}" for key, value in settings.items()]
    return [sys.executable, "-m", "pipelines", *command, *where, f"--workspace={folder / 'w'}", *overrides]


def call(folder: Path, *command: str, code: int = 0, **settings: Any) -> str:
    """Run a command to its end; a traceback is never an answer."""
    done = subprocess.run(
        words(folder, *command, **settings), cwd=ROOT, capture_output=True, text=True, timeout=280, check=False
    )
    said = done.stdout + done.stderr
    assert done.returncode == code, f"exit {done.returncode}:\n{said}"
    assert "Traceback" not in said
    return said


def status(folder: Path, **settings: Any) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(call(folder, "status", "--json", **settings))
    return answer


def states(folder: Path, **settings: Any) -> list[str]:
    return [row["state"] for row in status(folder, **settings).values()]


def stage_folder(folder: Path, stage: str) -> Path:
    (found,) = [path for path in (folder / "w" / stage).iterdir() if (path / STAGE_RECORD).exists()]
    return found


def unit_paths(folder: Path, stage: str, suffix: str) -> list[Path]:
    """Return the files with this suffix of the units of a finished stage, unhashed."""
    done = open_stage(stage_folder(folder, stage))
    assert done is not None
    return [units_of(done.folder) / f"{unit}{suffix}" for unit, _ in done.table.files(suffix)]


def shards(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in unit_paths(folder, "simulate", ".tar")}


@contextmanager
def running(folder: Path, *command: str, **settings: Any) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(words(folder, *command, **settings), cwd=ROOT, stdout=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def workers_of(process: subprocess.Popen[bytes]) -> list[int]:
    """The process ids of the workers that a running command started."""
    return [
        int(path.parent.name)
        for path in Path("/proc").glob("[0-9]*/cmdline")
        if b"ray::_Host" in _read(path) and _descends(int(path.parent.name), process.pid)
    ]


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _descends(pid: int, ancestor: int) -> bool:
    while pid > 1:
        if pid == ancestor:
            return True
        stat = _read(Path(f"/proc/{pid}/stat")).rpartition(b")")[2].split()
        pid = int(stat[1]) if stat else 0
    return False
