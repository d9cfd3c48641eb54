"""Units in the opposite order, each by a worker of its own: what must come out the same for every stage."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pipelines.engine.accounts import StageReport
from pipelines.engine.local_units import map_units
from pipelines.engine.resources import Resources
from pipelines.engine.stage import Unit, Worker


def backwards_by_many_workers(
    stage: str,
    worker: Callable[..., Worker[Any]],
    arguments: Sequence[Any],
    units: Sequence[Unit[Any]],
    *,
    folder: Path,
    resources: Resources,
    retries: int,
) -> StageReport:
    """Run the last unit first, and build a worker for each; see `pipelines.engine.backend.UnitRunner`."""
    for unit in reversed(units):
        map_units(stage, worker, arguments, [unit], folder=folder, resources=resources, retries=retries)
    return map_units(stage, worker, arguments, units, folder=folder, resources=resources, retries=retries)
