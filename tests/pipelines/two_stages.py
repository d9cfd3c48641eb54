"""Two stages that compute nothing, carried out as the runner does it but without a unit runner."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from pipelines.engine.accounts import Tally, UnitReport
from pipelines.engine.fingerprint import UnitKeys, unit_settings
from pipelines.engine.plan import StagePlan, plan
from pipelines.engine.records import IDENTITY_RECORD, RunFacts, write_record
from pipelines.engine.units import UnitFolder
from pipelines.engine.workspace import commit_stage, units_of, write_planned


@dataclass(frozen=True, kw_only=True)
class Config:
    key: float = 1.0


FIRST = SimpleNamespace(NAME="first", READS=(), REVISION=1)
SECOND = SimpleNamespace(NAME="second", READS=("first",), REVISION=1)
STAGES = (FIRST, SECOND)
KEPT = UnitReport(kept=Tally(2, 7200.0))


def config(**values: Any) -> Any:
    """An experiment of the two stages, with other settings where they are given."""
    return SimpleNamespace(**{"seed": 0, "first": Config(), "second": Config(), **values})


def carry_out(
    workspace: Path,
    settings: Any,
    name: str,
    content: bytes = b"rows",
    commit: bool = True,
    stages: Sequence[Any] = STAGES,
    report: UnitReport = KEPT,
) -> StagePlan:
    """Write one unit of a stage, and its record unless `commit` is false; return the stage's plan before that."""
    before = plan(stages, settings, workspace)[name]
    assert before.folder is not None
    before.folder.mkdir(parents=True)
    units_of(before.folder).mkdir(exist_ok=True)
    write_record(before.folder / IDENTITY_RECORD, before.identity)
    unit = f"part-{UnitKeys(name, settings=unit_settings(getattr(settings, name)))(content.hex())}"
    write_planned(before.folder, [unit], ())
    output = UnitFolder(units_of(before.folder), unit)
    output.path(".parquet").write_bytes(content)
    record = output.commit(Tally(2, 7200.0), report)
    if commit:
        run = RunFacts(seconds=1.0, code_commit="c", finished_at="now", versions={})
        commit_stage(before.folder, record.report, [record], {}, run)
    return before
