"""Show the state of every stage: as a table for people, as JSON for programs."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from typing import Any

from flowse import console
from pipelines.commands.session import Session
from pipelines.engine.plan import StagePlan

_NAMED = 5  # units that a line names


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the form of the answer."""
    parser.add_argument("--json", action="store_true", help="as JSON, for programs")


def run(arguments: argparse.Namespace) -> int:
    """Print the state of every stage."""
    session = Session.of(arguments)
    if arguments.json:
        print(status_json(session.plans))
        return 0
    print(status_table(session.plans))
    if note := session.listing.note():
        print(f"\n{note}")
    return 0


def status_json(plans: Mapping[str, StagePlan]) -> str:
    """Write the state and counts of every stage as JSON."""
    return json.dumps({name: status_row(stage) for name, stage in plans.items()}, indent=1, ensure_ascii=False)


def status_row(stage: StagePlan) -> dict[str, Any]:
    """Return the state and counts of a stage as plain values."""
    row: dict[str, Any] = {
        "state": stage.state,
        "fingerprint": stage.fingerprint,
        "folder": str(stage.folder) if stage.folder else None,
    }
    if stage.finished is not None:
        report = stage.finished.report
        for key, tally in (("in", report.taken), ("kept", report.kept)):
            row[key] = {"utterances": tally.utterances, "hours": tally.hours}
        for key, sums in (("dropped", report.dropped), ("failed", report.failed)):
            row[key] = {
                "utterances": sum(tally.utterances for tally in sums.values()),
                "hours": sum(tally.hours for tally in sums.values()),
                "reasons": {reason: {"utterances": t.utterances, "hours": t.hours} for reason, t in sums.items()},
            }
        row["seconds"] = stage.finished.record.seconds
        row["units"] = stage.finished.record.units
        row["lacks"] = list(stage.finished.lacks)
    else:
        row["reasons"] = list(stage.reasons)
    return row


def status_table(plans: Mapping[str, StagePlan]) -> str:
    """Write the state and counts of every stage as a table."""
    heads = ("stage", "state", "fingerprint", "in", "kept", "dropped", "failed", "hours in", "hours kept", "took")
    rows: list[tuple[str, ...]] = []
    for name, stage in plans.items():
        counts = [""] * 7
        if stage.finished is not None:
            facts = status_row(stage)
            counts = [f"{facts[key]['utterances']:,}" for key in ("in", "kept", "dropped", "failed")]
            counts += [f"{facts[key]['hours']:,.3f}" for key in ("in", "kept")]
            counts.append(console.duration(facts["seconds"]))
        rows.append((name, stage.state, stage.fingerprint or "not known yet", *counts))
    table = console.table(heads, rows, right=range(3, len(heads)), spare=(2, 7, 8, 5))
    lacking = [line for name, stage in plans.items() if (line := _lacking(name, stage))]
    return "\n".join([table, *lacking])


def _lacking(name: str, stage: StagePlan) -> str:
    """Say which quarantined units a stage was allowed to do without; empty if there are none."""
    units = stage.finished.lacks if stage.finished is not None else ()
    if not units:
        return ""
    more = f" and {len(units) - _NAMED} more" if len(units) > _NAMED else ""
    return f"NOTE  {name} does without {len(units)} quarantined units: {', '.join(units[:_NAMED])}{more}"
