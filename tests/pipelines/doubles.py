"""What the tests of stages need beside a Context: a tracker that remembers, and units in the opposite order."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipelines.engine.local_units import map_units
from pipelines.engine.records import PLANNED_UNITS
from pipelines.engine.resources import Resources
from pipelines.engine.stage import Unit, Worker
from pipelines.engine.tracking import Untracked
from pipelines.engine.unit_queue import Outcome


class RememberingTracker(Untracked):
    """Keeps tags and the names of artifacts, which have to exist."""

    def __init__(self, run_id: str | None = None, uri: str = "") -> None:
        self.run_id, self.uri = run_id, uri
        self.artifacts: list[str] = []
        self.set_tags: dict[str, str] = {}

    def tags(self, values: Mapping[str, str]) -> None:
        self.set_tags.update(values)

    def artifact(self, path: Path, folder: str | None = None) -> None:
        assert path.exists()
        self.artifacts.append(path.name)


def backwards_by_many_workers(
    stage: str,
    worker: Callable[..., Worker[Any]],
    arguments: Sequence[Any],
    units: Sequence[Unit[Any]],
    *,
    folder: Path,
    notes: Path,
    resources: Resources,
    retries: int,
) -> Outcome:
    """Run the last unit first, and build a worker for each; see `pipelines.engine.backend.UnitRunner`."""
    for unit in reversed(units):
        map_units(stage, worker, arguments, [unit], folder=folder, notes=notes, resources=resources, retries=retries)
    return map_units(stage, worker, arguments, units, folder=folder, notes=notes, resources=resources, retries=retries)


def files_of(folder: Path) -> dict[str, bytes]:
    """Return every file of an output and of its units, by path below the folder; no working state."""
    paths = sorted(path for path in (*folder.iterdir(), *(folder / "units").iterdir()) if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths if path.name != PLANNED_UNITS}
