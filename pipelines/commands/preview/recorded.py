"""Look up in the workspace's records how fast a stage was in earlier runs."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from flowse.training.history import read_history
from flowse.training.progress import Record
from pipelines.engine.fingerprint import Identity
from pipelines.engine.workspace import outputs
from pipelines.stages import train


def recorded_rate(workspace: Path, stage: str, identity: Identity) -> tuple[float, str] | None:
    """Find the youngest finished run of a stage with the same configuration, whatever it read.

    Of a run that resumed, only the units count that it did itself.

    Args:
        workspace: Where to look.
        stage: Name of the stage.
        identity: What the stage would be made from now.

    Returns:
        Seconds of audio a second, of all workers then, and when it was; None if there is no such record.
    """
    settings = _without_contents(identity.settings)
    found = []
    for output in outputs(workspace, [stage]):
        if output.finished is None or _without_contents(output.identity.settings) != settings:
            continue
        record = output.finished.record
        finished_at = datetime.fromisoformat(record.finished_at)
        if record.worked_s > 0 and record.seconds > 0:
            found.append((finished_at, record.worked_s / record.seconds))
    if not found:
        return None
    when, rate = max(found)
    return rate, f"the run of {when:%Y-%m-%d %H:%M}"


def _without_contents(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out what folders hold: more recordings change how long a stage takes, not how fast it is."""
    return {key: value for key, value in settings.items() if "content of" not in key}


# A training step takes as long as one of another run if these are the same.
_STEP_SECTIONS = ("model.", "flow.", "loss.", "mel.")
_STEP_KEYS = ("frames_per_step", "max_frames", "objective", "precision", "text")


def recorded_step_s(workspace: Path, identity: Identity) -> tuple[float, str] | None:
    """Find how long a training step took in the youngest run, finished or not, of the same network and step.

    Returns:
        Seconds a step, without validation; and which run that was; None if there is none.
    """
    for output in reversed(outputs(workspace, [train.NAME])):
        if _of_step(output.identity) != _of_step(identity):
            continue
        steps = int(output.identity.settings["max_steps"])
        seconds = [
            record["eta_s"] / (steps - record["step"])
            for record in _history(output.folder)
            if record.get("step", steps) < steps and record.get("eta_s") is not None
        ]
        if seconds:
            return statistics.median(seconds), f"{output.name}, {len(seconds)} records"
    return None


def _of_step(identity: Identity) -> dict[str, Any]:
    return {
        key: value for key, value in identity.settings.items() if key.startswith(_STEP_SECTIONS) or key in _STEP_KEYS
    }


def _history(folder: Path) -> list[Record]:
    """Return the records of a training, finished or begun."""
    if (folder / "history.parquet").exists():
        rows: list[Record] = pq.read_table(folder / "history.parquet").to_pylist()
        return rows
    return list(read_history(folder / ".state"))
