"""A tracker that remembers what was logged, for the tests of stages: their contexts need no other double."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pipelines.engine.tracking import Untracked


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
