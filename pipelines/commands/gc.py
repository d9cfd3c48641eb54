"""Keep a workspace honest and small: hash outputs against their records, find folders that nothing needs."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from pipelines.engine.ledger import STAGE_RECORD, open_stage
from pipelines.engine.plan import StagePlan


def verify(plans: Mapping[str, StagePlan]) -> list[str]:
    """Hash every file of every finished stage; return one line for each that is not as recorded."""
    wrong: list[str] = []
    for one in plans.values():
        finished = one.finished
        if finished is None and one.folder is not None and (one.folder / STAGE_RECORD).exists():
            finished = open_stage(one.folder)  # committed once, damaged since
        if finished is not None:
            wrong += finished.verify()
    return wrong


def mend(plans: Mapping[str, StagePlan]) -> list[str]:
    """Make every unit forgotten that has a wrong file, and what stages wrote over all units; return their names.

    The next run makes just these again. Files that no record names are left alone.
    """
    forgotten: list[str] = []
    for name, one in plans.items():
        finished = None if one.folder is None else open_stage(one.folder)
        if finished is not None:
            forgotten += [f"{name}/{unit}" for unit in finished.forget_damaged()]
    return forgotten


def unneeded(plans: Mapping[str, StagePlan], workspace: Path) -> list[Path]:
    """Return the stage folders that the current configuration does not need.

    A stage whose inputs are not known yet keeps all its folders: one of them may be the right one.
    """
    folders: list[Path] = []
    for name, one in plans.items():
        if one.folder is None or not (workspace / name).is_dir():
            continue
        folders += sorted(path for path in (workspace / name).iterdir() if path.is_dir() and path != one.folder)
    return folders


def size_bytes(folder: Path) -> int:
    """Add up the sizes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def delete(folder: Path) -> None:
    """Delete a stage folder; its record goes first, so that a half deleted folder is never taken for finished."""
    (folder / STAGE_RECORD).unlink(missing_ok=True)
    shutil.rmtree(folder)
