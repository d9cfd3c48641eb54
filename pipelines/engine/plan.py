"""What is fresh and what is not: every stage's state, and exactly why it will run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pipelines.engine import ledger
from pipelines.engine.ledger import IDENTITY_RECORD, Json, StageFolder
from pipelines.engine.stage import ExperimentSettings, Stage, reads_of

State = Literal["fresh", "stale", "incomplete", "missing"]


@dataclass(frozen=True)
class StagePlan:
    """One stage as the ledger sees it.

    Attributes:
        name: The stage.
        state: `fresh`: done; `incomplete`: begun, or damaged; `stale`: done for another configuration or input;
            `missing`: never done.
        fingerprint: Name of its folder; None while a stage that it reads is not fresh, as the inputs are not known yet.
        folder: `<workspace>/<stage>/<fingerprint>`; None likewise.
        identity: What the fingerprint is the hash of.
        finished: The committed output, if fresh.
        reasons: Why it will run, a line each; empty if fresh.
    """

    name: str
    state: State
    fingerprint: str | None
    folder: Path | None
    identity: Json
    finished: StageFolder | None
    reasons: tuple[str, ...]


def plan(stages: Sequence[Stage], config: ExperimentSettings, workspace: Path) -> dict[str, StagePlan]:
    """Decide every stage's state, in order, reading records only."""
    plans: dict[str, StagePlan] = {}
    for stage in stages:
        plans[stage.NAME] = plan_stage(stage, config, workspace, plans)
    return plans


def plan_stage(stage: Stage, config: ExperimentSettings, workspace: Path, plans: dict[str, StagePlan]) -> StagePlan:
    """Decide one stage's state from those before it."""
    section = getattr(config, stage.NAME)
    reads = reads_of(stage, section)
    waiting = [name for name in reads if plans[name].finished is None]
    inputs = {name: done.digest for name in reads if (done := plans[name].finished) is not None}
    identity = ledger.identity(stage.NAME, stage.REVISION, section, config.seed, inputs)
    before = latest(workspace / stage.NAME)
    if waiting:
        state: State = "missing" if before is None else "stale"
        reasons = [f"reads {name}, which is {plans[name].state}" for name in waiting]
        known = {key: value for key, value in identity.items() if not key.startswith("input ")}
        return StagePlan(stage.NAME, state, None, None, identity, None, (*reasons, *_differences(before, known)))
    name = ledger.fingerprint(identity)
    folder = workspace / stage.NAME / name
    finished = ledger.open_stage(folder)
    if finished is not None:
        damaged = finished.damaged()
        if not damaged:
            return StagePlan(stage.NAME, "fresh", name, folder, identity, finished, ())
        reasons = [f"{folder / one} is missing or has another size than recorded" for one in damaged[:5]]
        if len(damaged) > 5:
            reasons.append(f"and {len(damaged) - 5} more files")
        return StagePlan(stage.NAME, "incomplete", name, folder, identity, None, tuple(reasons))
    if (folder / IDENTITY_RECORD).exists():
        count = len(ledger.done_units(folder))
        quarantined = sorted(
            path.name.removesuffix(ledger.QUARANTINE_SUFFIX) for path in folder.glob(f"*{ledger.QUARANTINE_SUFFIX}")
        )
        reasons = [f"was begun and not finished: {count} units are done"]
        reasons += [f"unit {unit} is quarantined: {folder / unit}{ledger.QUARANTINE_SUFFIX}" for unit in quarantined]
        return StagePlan(stage.NAME, "incomplete", name, folder, identity, None, tuple(reasons))
    if before is None:
        return StagePlan(stage.NAME, "missing", name, folder, identity, None, ("has never run in this workspace",))
    return StagePlan(stage.NAME, "stale", name, folder, identity, None, tuple(_differences(before, identity)))


def latest(folder: Path) -> Json | None:
    """Return the identity of the youngest output of a stage, whatever its configuration was."""
    records = sorted(folder.glob(f"*/{IDENTITY_RECORD}"), key=lambda path: path.stat().st_mtime_ns)
    return ledger.read_json(records[-1]) if records else None


def _differences(before: Json | None, now: Json) -> list[str]:
    """Name every part of an identity that changed, from what to what."""
    if before is None:
        return []
    lines = []
    for key in sorted({*before, *now}):
        if key.startswith("input ") and key not in now:
            continue  # not known yet
        old, new = before.get(key, "(absent)"), now.get(key, "(absent)")
        if old != json.loads(json.dumps(new)):
            kind = (
                "output of " + key.removeprefix("input ") if key.startswith("input ") else key.removeprefix("config.")
            )
            lines.append(f"{kind} changed: {_short(old)} → {_short(new)}")
    return lines


def _short(value: Any) -> str:
    text = str(value)
    if len(text) == 64 and all(character in "0123456789abcdef" for character in text):
        return text[:12]
    return text if len(text) <= 80 else f"{text[:77]}…"
