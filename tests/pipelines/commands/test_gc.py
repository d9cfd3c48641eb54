"""`gc` lists, and with --yes deletes, the outputs that the configuration does not need, and no other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from pipelines.__main__ import main
from pipelines.commands.gc import unneeded
from pipelines.engine.plan import plan
from tests.pipelines.two_stages import STAGES, Config, carry_out, config


@dataclass(frozen=True, kw_only=True)
class Listed(Config):
    """A configuration with a key that only decides which units there are."""

    more: int = field(default=0, metadata={"unit": False})


def test_outputs_of_other_settings_are_not_needed(done: Path) -> None:
    settings = config(second=Config(key=2.0))
    old = plan(STAGES, config(), done)["second"].folder
    # Until the stage is done anew its youngest output stays: the next run does the units that are new.
    assert list(unneeded(plan(STAGES, settings, done), done)) == []
    carry_out(done, settings, "second")
    (waste,) = unneeded(plan(STAGES, settings, done), done)
    assert waste.folders == [old]
    assert (waste.count, len(waste.files)) == (1, 2)
    # While `first` is stale nobody knows which output of `second` will fit: keep them all.
    unknown = config(first=Config(key=9.0))
    assert list(unneeded(plan(STAGES, unknown, done), done)) == []


def test_units_that_two_outputs_share_are_needed_by_either(done: Path) -> None:
    settings = config(second=Listed(more=1))
    carry_out(done, settings, "second")
    carry_out(done, config(second=Listed(more=2)), "second")
    (waste,) = unneeded(plan(STAGES, settings, done), done)
    assert len(waste.folders) == 2
    assert waste.files == []


def test_units_of_an_output_that_is_only_begun_are_kept(tmp_path: Path) -> None:
    carry_out(tmp_path, config(), "first", commit=False)
    assert list(unneeded(plan(STAGES, config(), tmp_path), tmp_path)) == []


def test_outputs_of_an_earlier_version_are_not_needed(done: Path) -> None:
    old = done / "second" / "0123456789abcdef"
    old.mkdir()
    (old / "part-00000.parquet").touch()
    unknown = config(first=Config(key=9.0))
    assert [waste.folders for waste in unneeded(plan(STAGES, unknown, done), done)] == [[old]]


def test_only_what_is_listed_is_deleted_and_only_with_yes(
    done: Path, use: Callable[[Any], None], capsys: pytest.CaptureFixture[str]
) -> None:
    settings = config(second=Config(key=2.0))
    old = plan(STAGES, config(), done)["second"].folder
    assert old is not None
    carry_out(done, settings, "second")
    use(settings)
    assert main(["gc"]) == 0
    said = capsys.readouterr().out
    assert str(old) in said
    assert "1 folders and 1 units not needed by this configuration; delete with --yes" in said
    assert old.is_dir()
    assert main(["gc", "--yes"]) == 0
    assert "1 folders and 1 units deleted" in capsys.readouterr().out
    assert not old.exists()
    assert {stage.state for stage in plan(STAGES, settings, done).values()} == {"fresh"}
