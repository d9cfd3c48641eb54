"""Hash every output against its record, and forget the units with wrong files so that the next run makes them anew."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping

from pipelines.commands.session import Session
from pipelines.engine.lock import workspace_lock
from pipelines.engine.plan import StagePlan
from pipelines.engine.records import STAGE_RECORD
from pipelines.engine.workspace import open_stage


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what is done about wrong files."""
    parser.add_argument(
        "--mend", action="store_true", help="forget the units with wrong files: the next run makes them anew"
    )


def run(arguments: argparse.Namespace) -> int:
    """Print a line for every wrong file; the exit code is 1 if there is one."""
    session = Session.of(arguments)
    plans = session.plans
    wrong = wrong_files(plans)
    for line in wrong:
        print(f"BAD  {line}")
    checked = sum(stage.finished is not None for stage in plans.values())
    print(f"{len(wrong)} wrong files; {checked} finished stages hashed")
    if wrong and arguments.mend:
        with workspace_lock(session.workspace, " ".join(["python -m pipelines", *sys.argv[1:]])):
            forgotten = mend(plans)
        print(f"forgotten, and made anew by the next run: {', '.join(forgotten) or 'nothing (surplus files stay)'}")
    return 1 if wrong else 0


def wrong_files(plans: Mapping[str, StagePlan]) -> list[str]:
    """Hash every file of every finished stage; return one line for each that is not as recorded."""
    wrong: list[str] = []
    for stage in plans.values():
        finished = stage.finished
        if finished is None and stage.folder is not None and (stage.folder / STAGE_RECORD).exists():
            finished = open_stage(stage.folder)  # committed once, damaged since
        if finished is not None:
            wrong += finished.verify()
    return wrong


def mend(plans: Mapping[str, StagePlan]) -> list[str]:
    """Forget every unit that has a wrong file, and the files that a stage wrote over all units; return their names.

    The next run makes just these again. Files that no record names are left alone.
    """
    forgotten: list[str] = []
    for name, stage in plans.items():
        finished = None if stage.folder is None else open_stage(stage.folder)
        if finished is not None:
            forgotten += [f"{name}/{unit}" for unit in finished.forget_damaged()]
    return forgotten
