"""What people were shown of outputs: listening pages, and artifacts in the MLflow store of a workspace."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path

ARTIFACTS = "mlartifacts"
"""Folder of the artifacts of the workspace's own MLflow store; see `pipelines.engine.tracking`."""
_MODEL = "model"


def shown_of_others(workspace: Path, pages: Path, fingerprints: Collection[str], runs: Collection[str]) -> list[Path]:
    """Return the pages and artifacts that show other outputs than the given ones; models are none of them.

    Args:
        workspace: Folder of all outputs.
        pages: Folder of the listening pages and of the folders of audio beside them, whose names begin with a
            fingerprint.
        fingerprints: Of the outputs whose pages are not wanted.
        runs: Ids of the MLflow runs whose artifacts are not wanted.
    """
    others = [
        path
        for path in sorted(pages.rglob("*"))
        if path.is_file() and path.relative_to(pages).parts[0].partition("-")[0] not in fingerprints
    ]
    for run in sorted((workspace / ARTIFACTS).glob("*")):
        if run.name not in runs:
            others += _shown(run / "artifacts")
    return others


def _shown(artifacts: Path) -> Iterator[Path]:
    for path in sorted(artifacts.rglob("*")):
        if path.is_file() and path.relative_to(artifacts).parts[0] != _MODEL:
            yield path
