"""List, and with --yes delete, the stage folders that the current configuration does not need."""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Mapping
from pathlib import Path

from pipelines.commands.session import Session
from pipelines.engine.plan import StagePlan
from pipelines.engine.records import STAGE_RECORD


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the confirmation."""
    parser.add_argument("--yes", action="store_true", help="really delete them")


def run(arguments: argparse.Namespace) -> int:
    """Print every folder that is not needed, with its size, and their sum."""
    session = Session.of(arguments)
    folders = unneeded(session.plans, session.workspace)
    total = 0
    for folder in folders:
        size = size_bytes(folder)
        total += size
        print(f"{size / 2**20:10,.1f} MiB  {folder}")
        if arguments.yes:
            delete(folder)
    verb = "deleted" if arguments.yes else "not needed by this configuration; delete with --yes"
    print(f"{total / 2**20:10,.1f} MiB  {len(folders)} folders {verb}")
    return 0


def unneeded(plans: Mapping[str, StagePlan], workspace: Path) -> list[Path]:
    """Return the stage folders that the current configuration does not need.

    A stage whose inputs are not known yet keeps all its folders: one of them may be the right stage.
    """
    folders: list[Path] = []
    for name, stage in plans.items():
        if stage.folder is None or not (workspace / name).is_dir():
            continue
        folders += sorted(path for path in (workspace / name).iterdir() if path.is_dir() and path != stage.folder)
    return folders


def size_bytes(folder: Path) -> int:
    """Add up the sizes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def delete(folder: Path) -> None:
    """Delete a stage folder; its record goes first, so that a half deleted folder is never taken for finished."""
    (folder / STAGE_RECORD).unlink(missing_ok=True)
    shutil.rmtree(folder)
