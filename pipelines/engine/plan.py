"""Decide which stages are fresh and which are not: the state of every stage, and exactly why it will run."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from flowse.outside import DigestOf, digest_now
from flowse.refusal import CHANGED
from pipelines.engine.accounts import Tally
from pipelines.engine.fingerprint import Identity
from pipelines.engine.records import IDENTITY_RECORD, QUARANTINE_SUFFIX, STAGE_RECORD, read_record
from pipelines.engine.stage import ExperimentSettings, Stage, reads_of
from pipelines.engine.units import DoneUnits
from pipelines.engine.workspace import StageFolder, open_stage, output_folders, planned_units, units_of

State = Literal["fresh", "stale", "incomplete", "missing"]

_NAMED = 5  # damaged files that the reasons name


@dataclass(frozen=True)
class StagePlan:
    """The state of one stage, by the records of the workspace.

    Attributes:
        name: The stage.
        state: `fresh`: done; `incomplete`: begun, or damaged; `stale`: done for another configuration or input;
            `missing`: never done.
        fingerprint: Name of its folder; None while a stage that it reads is not fresh, as the inputs are not known yet.
        folder: `<workspace>/<stage>/<fingerprint>`; None if `fingerprint` is None.
        identity: What the fingerprint is the hash of; without the inputs that are not known yet.
        finished: The finished stage, if fresh.
        reasons: Why it will run, a line each; empty if fresh.
        youngest_ns: When the youngest of this output and of all that it is made from was finished, in ns; 0 unless
            fresh.
    """

    name: str
    state: State
    fingerprint: str | None
    folder: Path | None
    identity: Identity
    finished: StageFolder | None
    reasons: tuple[str, ...]
    youngest_ns: int = 0


def plan(
    stages: Sequence[Stage], config: ExperimentSettings, workspace: Path, digest_of: DigestOf = digest_now
) -> dict[str, StagePlan]:
    """Decide the state of every stage, in order, from records and file sizes; see `plan_stage`.

    Raises:
        UserError: A record has another form; see `record_of`.
    """
    plans: dict[str, StagePlan] = {}
    for stage in stages:
        plans[stage.NAME] = plan_stage(stage, config, workspace, plans, digest_of)
    return plans


def plan_stage(
    stage: Stage,
    config: ExperimentSettings,
    workspace: Path,
    plans: dict[str, StagePlan],
    digest_of: DigestOf = digest_now,
) -> StagePlan:
    """Decide the state of one stage.

    Args:
        stage: The stage.
        config: The experiment; has a section for the stage.
        workspace: Folder of all outputs.
        plans: The stages that it reads, at least.
        digest_of: Returns the hash of corpora and other files outside of the workspace.

    Raises:
        UserError: A record has another form; see `record_of`.
    """
    section = getattr(config, stage.NAME)
    reads = reads_of(stage, section)
    inputs = {name: finished.digest for name in reads if (finished := plans[name].finished) is not None}
    identity = Identity.of(stage.NAME, stage.REVISION, section, config.seed, inputs, digest_of)
    if hasattr(stage, "continues") and len(inputs) == len(reads):
        identity = _continued(stage, identity, section, workspace / stage.NAME)
    before = _latest(workspace, stage.NAME)
    waiting = tuple(f"reads {name}, which is {plans[name].state}" for name in reads if name not in inputs)
    if waiting:
        state: State = "missing" if before is None else "stale"
        known = () if before is None else _changes(before, identity)
        return StagePlan(stage.NAME, state, None, None, identity, None, (*waiting, *known))
    name = identity.fingerprint
    folder = workspace / stage.NAME / name
    finished = open_stage(folder)
    made_ns = _made_ns(folder)
    above_ns = max((plans[above].youngest_ns for above in reads), default=0)
    damaged = [] if finished is None else finished.damaged()
    missed = 0 if finished is None else finished.report.failed.get(CHANGED, Tally()).utterances
    if finished is not None and not damaged and not (missed and above_ns > made_ns):
        youngest_ns = max(made_ns, above_ns)
        return StagePlan(stage.NAME, "fresh", name, folder, identity, finished, (), youngest_ns)
    if finished is not None and damaged:
        state, reasons = "incomplete", _of_damage(finished, damaged)
    elif finished is not None:
        again = (
            f"{missed:,} recordings had changed since ingest when it ran; ingest has run again: they are tried again"
        )
        state, reasons = "incomplete", [again]
    elif (folder / IDENTITY_RECORD).exists():
        state, reasons = "incomplete", _of_begun(folder)
    elif before is None:
        state, reasons = "missing", ["has never run in this workspace"]
    else:
        state, reasons = "stale", list(_changes(before, identity))
    return StagePlan(stage.NAME, state, name, folder, identity, None, tuple(reasons))


def _continued(stage: Any, identity: Identity, section: Any, folder: Path) -> Identity:
    """Add to an identity what the output goes on from, for a stage that goes on from earlier outputs of its own."""

    def with_addition(addition: Mapping[str, Any]) -> Identity:
        return dataclasses.replace(identity, settings={**identity.settings, **addition})

    def has_output(addition: Mapping[str, Any]) -> bool:
        return (folder / with_addition(addition).fingerprint / STAGE_RECORD).exists()

    return with_addition(stage.continues(section, identity.seed, identity.inputs, folder, has_output))


def _latest(workspace: Path, stage: str) -> Identity | None:
    """Return the identity of a stage's youngest output, whatever its configuration was."""
    folders = output_folders(workspace, stage)
    return read_record(Identity, folders[-1] / IDENTITY_RECORD) if folders else None


def _made_ns(folder: Path) -> int:
    """Return when an output was finished, in ns; 0 if it was not."""
    try:
        return (folder / STAGE_RECORD).stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def _of_damage(finished: StageFolder, damaged: Sequence[str]) -> list[str]:
    reasons = [f"{finished.path(name)} is missing or has another size than recorded" for name in damaged[:_NAMED]]
    if len(damaged) > _NAMED:
        reasons.append(f"and {len(damaged) - _NAMED} more files")
    return reasons


def _of_begun(folder: Path) -> list[str]:
    quarantined = sorted(path.name.removesuffix(QUARANTINE_SUFFIX) for path in folder.glob(f"*{QUARANTINE_SUFFIX}"))
    planned, done = planned_units(folder)[0], DoneUnits(units_of(folder))
    progress = f": {sum(unit in done for unit in planned):,} of {len(planned):,} units are done" if planned else ""
    return [
        f"was begun and not finished{progress}",
        *(f"unit {unit} is quarantined: {folder / unit}{QUARANTINE_SUFFIX}" for unit in quarantined),
    ]


def _changes(before: Identity, now: Identity) -> Iterator[str]:
    """Name every part of an identity that changed, from what to what; inputs that are not known yet are left out."""
    inputs_before = {stage: digest for stage, digest in before.inputs.items() if stage in now.inputs}
    numbers_before, numbers = (
        {"revision": what.revision, "seed": what.seed, "layout of the workspace": what.layout} for what in (before, now)
    )
    for kind, old, new in (
        ("", before.settings, now.settings),
        ("output of ", inputs_before, now.inputs),
        ("", numbers_before, numbers),
    ):
        for key in sorted({*old, *new}):
            old_value, new_value = old.get(key, "(absent)"), new.get(key, "(absent)")
            if old_value != new_value:
                yield f"{kind}{key} changed: {_short(old_value)} → {_short(new_value)}"


def _short(value: Any) -> str:
    text = str(value)
    if len(text) == 64 and all(character in "0123456789abcdef" for character in text):
        return text[:12]
    return text if len(text) <= 80 else f"{text[:77]}…"
