"""Laws of counting: it says what a run would do, does nothing of it, and goes no further than the first units."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from flowse.errors import UserError
from pipelines.engine.accounts import StageReport, Tally, UnitReport
from pipelines.engine.context import Context
from pipelines.engine.fingerprint import UnitKeys, unit_settings
from pipelines.engine.plan import plan
from pipelines.engine.stage import StageContext, Unit, UnitOutput
from pipelines.engine.unit_count import UnitCount, count_units
from pipelines.engine.workspace import units_of


@dataclass(frozen=True, kw_only=True)
class Config:
    """Which units there are."""

    listed: tuple[str, ...] = field(default=(), metadata={"unit": False})
    hidden: tuple[str, ...] = field(default=(), metadata={"unit": False})


class Worker:
    """Writes what it is given."""

    def __call__(self, payload: str, output: UnitOutput) -> UnitReport:
        output.path(".txt").write_text(payload)
        return UnitReport(Tally(1, 1.0))


def run(config: Config, context: StageContext) -> StageReport:
    """Write hidden units, then those that are listed."""
    if "bad" in config.listed:
        raise UserError("mend it")
    context.map_units(Worker, (), [Unit("h", text, Tally(1, 1.0), text) for text in config.hidden], hidden=True)
    context.say(f"{len(context.unit_files('.txt', hidden=True))} hidden")
    return context.map_units(Worker, (), [Unit("u", text, Tally(1, 1.0), text) for text in config.listed])


STAGE: Any = SimpleNamespace(NAME="s", READS=(), REVISION=1, Worker=Worker, run=run)


def count(workspace: Path, config: Config) -> UnitCount | str:
    experiment: Any = SimpleNamespace(name="e", seed=0, s=config)
    return count_units(STAGE, experiment, plan([STAGE], experiment, workspace), {})


def carry_out(workspace: Path, config: Config) -> None:
    experiment: Any = SimpleNamespace(name="e", seed=0, s=config)
    folder = plan([STAGE], experiment, workspace)["s"].folder
    assert folder is not None
    keys = UnitKeys("s", 1, unit_settings(config), 0)
    run(config, Context(folder, name="s", units_folder=units_of(folder), keys=keys))


def test_units_that_an_earlier_listing_has_are_not_new(tmp_path: Path) -> None:
    assert count(tmp_path, Config(listed=("a", "b"))) == UnitCount(2, 2)
    assert list(tmp_path.iterdir()) == []
    carry_out(tmp_path, Config(listed=("a", "b")))
    found = count(tmp_path, Config(listed=("b", "c", "a")))
    assert found == UnitCount(1, 3)
    assert str(found) == "1 of 3 units are new"


def test_hidden_units_are_passed_once_they_are_done(tmp_path: Path) -> None:
    config = Config(listed=("a",), hidden=("x", "y"))
    assert count(tmp_path, config) == UnitCount(2, 2, hidden=True)
    carry_out(tmp_path, config)
    assert count(tmp_path, Config(listed=("a", "b"), hidden=("x", "y"))) == UnitCount(1, 2)


def test_a_stage_that_would_stop_says_why(tmp_path: Path) -> None:
    assert count(tmp_path, Config(listed=("bad",))) == "it would stop: mend it"


def test_a_stage_without_units_has_nothing_to_count(tmp_path: Path) -> None:
    whole: Any = SimpleNamespace(NAME="s", READS=(), REVISION=1, run=run)
    experiment: Any = SimpleNamespace(name="e", seed=0, s=Config())
    assert count_units(whole, experiment, plan([whole], experiment, tmp_path), {}) == ""
