"""`gc` lists, and with --yes deletes, the outputs that the configuration does not need, and no other."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipelines.__main__ import main
from pipelines.commands.gc import unneeded
from pipelines.engine.plan import plan
from tests.pipelines.two_stages import STAGES, Config, carry_out, config


def test_outputs_of_other_settings_are_not_needed(done: Path) -> None:
    settings = config(second=Config(key=2.0))
    old = plan(STAGES, config(), done)["second"].folder
    carry_out(done, settings, "second")
    assert unneeded(plan(STAGES, settings, done), done) == [old]
    # While `first` is stale nobody knows which output of `second` will fit: keep them all.
    unknown = config(first=Config(key=9.0))
    assert [path.parent.name for path in unneeded(plan(STAGES, unknown, done), done)] == ["first"]


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
    assert "1 folders not needed by this configuration; delete with --yes" in said
    assert old.is_dir()
    assert main(["gc", "--yes"]) == 0
    assert "1 folders deleted" in capsys.readouterr().out
    assert not old.exists()
    assert {stage.state for stage in plan(STAGES, settings, done).values()} == {"fresh"}
