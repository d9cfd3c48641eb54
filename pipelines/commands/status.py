"""Show where every stage stands: as a table for people, as JSON for programs, and why a stage will run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pipelines.engine import console
from pipelines.engine.plan import StagePlan


def status_json(plans: Mapping[str, StagePlan]) -> str:
    """Write every stage's state and books as JSON."""
    return json.dumps({name: status_row(one) for name, one in plans.items()}, indent=1, ensure_ascii=False)


def status_row(one: StagePlan) -> dict[str, Any]:
    """One stage's state and books as plain values."""
    row: dict[str, Any] = {
        "state": one.state,
        "fingerprint": one.fingerprint,
        "folder": str(one.folder) if one.folder else None,
    }
    if one.finished is not None:
        report = one.finished.report
        for key, tally in (("in", report.taken), ("kept", report.kept)):
            row[key] = {"utterances": tally.utterances, "hours": tally.hours}
        for key, sums in (("dropped", report.dropped), ("failed", report.failed)):
            row[key] = {
                "utterances": sum(tally.utterances for tally in sums.values()),
                "hours": sum(tally.hours for tally in sums.values()),
                "reasons": {reason: {"utterances": t.utterances, "hours": t.hours} for reason, t in sums.items()},
            }
        row["seconds"] = one.finished.record["seconds"]
    else:
        row["reasons"] = list(one.reasons)
    return row


def status_table(plans: Mapping[str, StagePlan]) -> str:
    """Write every stage's state and books as a table."""
    heads = ("stage", "state", "fingerprint", "in", "kept", "dropped", "failed", "hours in", "hours kept", "took")
    rows: list[tuple[str, ...]] = []
    for name, one in plans.items():
        books = [""] * 7
        if one.finished is not None:
            facts = status_row(one)
            books = [f"{facts[key]['utterances']:,}" for key in ("in", "kept", "dropped", "failed")]
            books += [f"{facts[key]['hours']:,.3f}" for key in ("in", "kept")]
            books.append(console.duration(facts["seconds"]))
        rows.append((name, one.state, one.fingerprint or "not known yet", *books))
    return console.table(heads, rows, right=range(3, len(heads)))


def explanation(one: StagePlan) -> str:
    """Say that a stage is up to date, or exactly why it will run."""
    if one.finished is not None:
        record = one.finished.record
        return (
            f"{one.name} is up to date: {one.folder}\n"
            f"  made by commit {record['code_commit']} at {record['finished_at']} "
            f"in {console.duration(record['seconds'])}, output digest {one.finished.digest[:12]}"
        )
    return "\n".join([f"{one.name} will run; it is {one.state}:", *(f"  {reason}" for reason in one.reasons)])
