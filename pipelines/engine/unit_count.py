"""Count the units of a stage that a run would do: the stage's own `run`, stopped where its units would begin."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from flowse.errors import UserError
from pipelines.engine.accounts import StageReport
from pipelines.engine.context import Context
from pipelines.engine.fingerprint import UnitKeys, unit_settings
from pipelines.engine.plan import StagePlan
from pipelines.engine.stage import Arguments, ExperimentSettings, Payload, Stage, Unit, Worker, reads_of
from pipelines.engine.unit_queue import Outcome
from pipelines.engine.units import DoneUnits
from pipelines.engine.workspace import units_of


@dataclass(frozen=True)
class UnitCount:
    """How many units a stage would consist of.

    Attributes:
        new: Units that no run has done yet.
        total: All units.
        hidden: They are intermediate units; how many others there will be is known once these are done.
    """

    new: int
    total: int
    hidden: bool = False

    def __str__(self) -> str:
        if self.hidden:
            return f"{self.new:,} of {self.total:,} intermediate units are new; the others are known after these"
        return f"{self.new:,} of {self.total:,} units are new"


class _Counted(Exception):
    """The units have been counted."""

    def __init__(self, count: UnitCount) -> None:
        super().__init__(str(count))
        self.count = count


class _CountingContext(Context):
    """A context that looks which units are done, and ends the stage where work would begin."""

    def say(self, line: str) -> None:
        """Say nothing: nobody asked the stage to run."""

    def map_units(
        self,
        worker: Callable[[*Arguments], Worker[Payload]],
        arguments: tuple[*Arguments],
        units: Sequence[Unit[Payload]],
        *,
        hidden: bool = False,
    ) -> StageReport:
        """Count the units; hidden ones that are all done are handed on as they are.

        Raises:
            _Counted: The count is known.
        """
        named = self.named(units)
        done = DoneUnits(self.units_folder)
        new = sum(unit.name not in done for unit in named)
        if new or not hidden:
            raise _Counted(UnitCount(new, len(named), hidden))
        records = done.records(unit.name for unit in named)
        for unit in named:
            if unit.name not in records:  # its files are lost
                raise _Counted(UnitCount(len(named) - len(records), len(named), hidden))
            self.add(unit, records[unit.name], hidden=True)
        return Outcome(records, ()).report


def count_units(
    stage: Stage, config: ExperimentSettings, plans: Mapping[str, StagePlan], roots: Mapping[str, Path]
) -> UnitCount | str:
    """Count the units that a stage would do; nothing is written to the workspace.

    Args:
        stage: A stage that is cut into units, whose inputs are fresh.
        config: The experiment.
        plans: States of the stage and of those that it reads.
        roots: Folder of every corpus, by name.

    Returns:
        The count, or why the stage would not get as far as its units; empty: it has none.
    """
    plan, section = plans[stage.NAME], getattr(config, stage.NAME)
    if plan.folder is None or not hasattr(stage, "Worker"):
        return ""
    inputs = {name: done for name in reads_of(stage, section) if (done := plans[name].finished) is not None}
    with tempfile.TemporaryDirectory(prefix="flowse-count-") as scratch:
        context = _CountingContext(
            Path(scratch) / plan.folder.name,
            name=stage.NAME,
            seed=config.seed,
            units_folder=units_of(plan.folder),
            keys=UnitKeys(stage.NAME, stage.REVISION, unit_settings(section), config.seed),
            inputs=inputs,
            roots=roots,
        )
        try:
            stage.run(section, context)
        except _Counted as found:
            return found.count
        except UserError as error:
            return f"it would stop: {error}"
    return ""
