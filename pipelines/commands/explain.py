"""Say exactly why a stage will run, or that it is up to date."""

from __future__ import annotations

import argparse

from flowse import console
from pipelines.commands.session import Session
from pipelines.engine.plan import StagePlan
from pipelines.experiment import STAGE_NAMES


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the stage to explain."""
    parser.add_argument("stage", choices=STAGE_NAMES, metavar="STAGE", help=", ".join(STAGE_NAMES))


def run(arguments: argparse.Namespace) -> int:
    """Print the explanation of one stage."""
    session = Session.of(arguments)
    print(explanation(session.plans[arguments.stage]))
    if note := session.listing.note():
        print(f"  {note}")
    if new := session.new_units(arguments.stage):
        print(f"  {new}")
    return 0


def explanation(stage: StagePlan) -> str:
    """Say that a stage is up to date and what made it, or name every reason why it will run."""
    if stage.finished is None:
        return "\n".join([f"{stage.name} will run; it is {stage.state}:", *(f"  {reason}" for reason in stage.reasons)])
    record = stage.finished.record
    return (
        f"{stage.name} is up to date: {stage.folder}\n"
        f"  made by commit {record.code_commit} at {record.finished_at} "
        f"in {console.duration(record.seconds)}, output digest {stage.finished.digest[:12]}"
    )
