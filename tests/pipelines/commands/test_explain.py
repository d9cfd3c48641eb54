"""`explain` names what made a fresh stage, or every reason why a stage will run."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.__main__ import main
from pipelines.commands.explain import explanation
from pipelines.engine.plan import plan
from tests.pipelines.two_stages import STAGES, Config, config


def test_a_fresh_stage_is_up_to_date_and_a_changed_one_names_the_key(done: Path) -> None:
    plans = plan(STAGES, config(second=Config(key=2.0)), done)
    fresh = explanation(plans["first"]).splitlines()
    assert fresh[0] == f"first is up to date: {plans['first'].folder}"
    assert "made by commit c at now in 0:01, output digest" in fresh[1]
    assert explanation(plans["second"]).splitlines() == [
        "second will run; it is stale:",
        "  key changed: 1.0 → 2.0",
    ]


def test_the_stage_is_one_of_the_program(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "rooms", f"--workspace={tmp_path}"]) == 0
    assert "rooms will run; it is missing:\n  reads ingest, which is missing" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["explain", "bake"])
    assert "'ingest', 'rooms'" in capsys.readouterr().err
