"""How fast stages were before, by what the workspace recorded of them."""

from __future__ import annotations

import json
import math
import statistics
from datetime import datetime
from pathlib import Path

import pyarrow.parquet as pq

from pipelines.engine import ledger
from pipelines.engine.ledger import IDENTITY_RECORD, Json
from pipelines.stages import train


def recorded_rate(workspace: Path, stage: str, identity: Json) -> tuple[float, str] | None:
    """Find the youngest whole run of a stage with the same configuration, whatever it read.

    A run that went on where another was cut off only counts the units that it did itself.

    Args:
        workspace: Where to look.
        stage: Name of the stage.
        identity: What the stage would be made from now.

    Returns:
        Seconds of audio a second, of all workers then, and when it was; None if there is no such record.
    """
    settings = _settings(identity)
    found = []
    for path in (workspace / stage).glob(f"*/{ledger.STAGE_RECORD}"):
        record = ledger.read_json(path)
        if record is None or _settings(record.get("identity") or {}) != settings or not record.get("finished_at"):
            continue
        finished = datetime.fromisoformat(record["finished_at"])
        begun = finished.timestamp() - record["seconds"] - 1
        done = [
            unit["books"]["taken"]["seconds"]
            for name, unit in ledger.done_units(path.parent).items()
            if (path.parent / f"{name}.json").stat().st_mtime >= begun
        ]
        if math.fsum(done) > 0 and record["seconds"] > 0:
            found.append((finished, math.fsum(done) / record["seconds"]))
    if not found:
        return None
    when, rate = max(found)
    return rate, f"the run of {when:%Y-%m-%d %H:%M}"


def _settings(identity: Json) -> Json:
    return {key: value for key, value in identity.items() if key.startswith("config.") and "content of" not in key}


_STEP_KEYS = ("config.model.", "config.flow.", "config.loss.", "config.mel.")
_STEP_NAMES = ("config.frames_per_step", "config.max_frames", "config.objective", "config.precision", "config.text")


def recorded_step_s(workspace: Path, identity: Json) -> tuple[float, str] | None:
    """Find how long a training step took in the youngest run, finished or not, of the same network and step.

    Returns:
        Seconds a step, without validation; and which run that was; None if there is none.
    """

    def of_step(what: Json) -> Json:
        return {key: value for key, value in what.items() if key.startswith(_STEP_KEYS) or key in _STEP_NAMES}

    runs = sorted((workspace / train.NAME).glob(f"*/{IDENTITY_RECORD}"), key=lambda path: path.stat().st_mtime_ns)
    wanted = of_step(json.loads(json.dumps(identity)))
    for path in reversed(runs):
        found = ledger.read_json(path) or {}
        if of_step(found) != wanted:
            continue
        steps = int(found["config.max_steps"])
        seconds = [
            record["eta_s"] / (steps - record["step"])
            for record in _history(path.parent)
            if record.get("step", steps) < steps and record.get("eta_s") is not None
        ]
        if seconds:
            return statistics.median(seconds), f"train/{path.parent.name}, {len(seconds)} records"
    return None


def _history(folder: Path) -> list[Json]:
    if (folder / "history.parquet").exists():
        rows: list[Json] = pq.read_table(folder / "history.parquet").to_pylist()
        return rows
    path = folder / ".state" / "history.jsonl"
    found = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            found.append(json.loads(line))
        except ValueError:  # a line that is being written
            break
    return found
