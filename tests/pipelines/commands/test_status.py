"""`status` shows every stage with counts that add up, to people and to programs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flowse.data.manifest import Reject
from pipelines.__main__ import main
from pipelines.commands.status import status_row, status_table
from pipelines.engine.accounts import Tally, UnitReport
from pipelines.engine.plan import plan
from tests.pipelines.two_stages import STAGES, Config, carry_out, config


def test_counts_add_up(tmp_path: Path) -> None:
    reject = Reject(utt_id="u", corpus="c", stage="first", kind="dropped", reason="silent", duration_s=3600.0)
    carry_out(tmp_path, config(), "first", report=UnitReport(kept=Tally(1, 3600.0), rejects=(reject,)))
    row = status_row(plan(STAGES, config(), tmp_path)["first"])
    assert row["state"] == "fresh"
    assert row["in"] == {"utterances": 2, "hours": 2.0}
    assert row["dropped"]["reasons"] == {"silent": {"utterances": 1, "hours": 1.0}}
    for key in ("utterances", "hours"):
        assert row["in"][key] == sum(row[part][key] for part in ("kept", "dropped", "failed"))


def test_the_table_has_a_line_for_each_stage(done: Path) -> None:
    heads, *lines = status_table(plan(STAGES, config(second=Config(key=2.0)), done)).splitlines()
    assert heads.split()[:4] == ["stage", "state", "fingerprint", "in"]
    assert [line.split()[:2] for line in lines] == [["first", "fresh"], ["second", "stale"]]


def test_programs_read_states_counts_and_reasons(
    use: Callable[[Any], None], capsys: pytest.CaptureFixture[str]
) -> None:
    use(config(second=Config(key=2.0)))
    assert main(["status", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert rows["first"]["kept"] == {"utterances": 2, "hours": 2.0}
    assert rows["second"]["reasons"] == ["key changed: 1.0 → 2.0"]
    assert main(["status"]) == 0
    assert capsys.readouterr().out.startswith("stage")
