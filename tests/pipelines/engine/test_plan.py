"""The plan: a stage runs when something that it depends on changed, says what, and nothing else runs."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from flowse.data.manifest import Reject
from flowse.refusal import CHANGED
from pipelines.engine.accounts import Tally, UnitReport
from pipelines.engine.plan import plan
from pipelines.engine.records import IDENTITY_RECORD, STAGE_RECORD, UNIT_LIST
from pipelines.engine.workspace import units_of
from tests.pipelines.two_stages import STAGES, Config, carry_out, config


def states(workspace: Path, settings: Any) -> dict[str, str]:
    return {name: stage.state for name, stage in plan(STAGES, settings, workspace).items()}


@pytest.fixture
def done(tmp_path: Path) -> Path:
    carry_out(tmp_path, config(), "first")
    carry_out(tmp_path, config(), "second")
    return tmp_path


def test_a_setting_can_make_an_input_needless(done: Path) -> None:
    @dataclass(frozen=True, kw_only=True)
    class Sufficient(Config):
        def reads(self) -> tuple[str, ...]:
            return ()

    alone = config(first=Config(key=2.0), second=Sufficient())
    stage_plan = plan(STAGES, alone, done)["second"]
    assert stage_plan.fingerprint is not None
    assert stage_plan.identity.inputs == {}
    carry_out(done, alone, "second")
    assert states(done, config(first=Config(key=3.0), second=Sufficient()))["second"] == "fresh"


def test_nothing_is_there_at_first(tmp_path: Path) -> None:
    plans = plan(STAGES, config(), tmp_path)
    assert [stage.state for stage in plans.values()] == ["missing", "missing"]
    assert plans["second"].fingerprint is None
    assert plans["second"].reasons == ("reads first, which is missing",)


def test_what_is_done_is_fresh(done: Path) -> None:
    assert states(done, config()) == {"first": "fresh", "second": "fresh"}


def test_a_changed_key_makes_the_stage_and_its_readers_stale_and_nothing_before(done: Path) -> None:
    plans = plan(STAGES, config(second=Config(key=2.0)), done)
    assert [stage.state for stage in plans.values()] == ["fresh", "stale"]
    assert plans["second"].reasons == ("key changed: 1.0 → 2.0",)
    plans = plan(STAGES, config(first=Config(key=2.0)), done)
    assert [stage.state for stage in plans.values()] == ["stale", "stale"]
    assert plans["second"].reasons == ("reads first, which is stale",)


def test_a_rerun_with_equal_output_leaves_readers_fresh(done: Path) -> None:
    settings = config(first=Config(key=2.0))
    carry_out(done, settings, "first", content=b"rows")
    assert states(done, settings) == {"first": "fresh", "second": "fresh"}


def test_a_changed_input_is_named_with_both_digests(done: Path) -> None:
    settings = config(first=Config(key=2.0))
    carry_out(done, settings, "first", content=b"other rows")
    reasons = plan(STAGES, settings, done)["second"].reasons
    assert len(reasons) == 1
    assert reasons[0].startswith("output of first changed: ")


def test_going_back_finds_the_old_output(done: Path) -> None:
    carry_out(done, config(second=Config(key=2.0)), "second")
    assert states(done, config()) == {"first": "fresh", "second": "fresh"}


def test_a_raised_revision_is_named(done: Path) -> None:
    raised = SimpleNamespace(NAME="first", READS=(), REVISION=2)
    assert plan((raised,), config(), done)["first"].reasons == ("revision changed: 1 → 2",)


def test_begun_and_damaged_stages_are_incomplete(tmp_path: Path) -> None:
    carry_out(tmp_path, config(), "first", commit=False)
    assert plan(STAGES, config(), tmp_path)["first"].state == "incomplete"
    assert "1 of 1 units are done" in plan(STAGES, config(), tmp_path)["first"].reasons[0]


def test_a_lost_file_is_named(done: Path) -> None:
    folder = plan(STAGES, config(), done)["first"].folder
    assert folder is not None
    (lost,) = units_of(folder).glob("part-*.parquet")
    lost.unlink()
    stage_plan = plan(STAGES, config(), done)["first"]
    assert stage_plan.state == "incomplete"
    assert f"{lost.name} is missing" in stage_plan.reasons[0]


@pytest.mark.parametrize("lost", [UNIT_LIST, "units/*.json"])
def test_a_lost_record_makes_the_stage_incomplete(done: Path, lost: str) -> None:
    folder = plan(STAGES, config(), done)["first"].folder
    assert folder is not None
    for path in [*folder.glob(lost), *folder.parent.glob(lost)]:
        path.unlink()
    assert plan(STAGES, config(), done)["first"].state == "incomplete"


def test_a_damaged_list_of_units_makes_the_stage_incomplete(done: Path) -> None:
    folder = plan(STAGES, config(), done)["first"].folder
    assert folder is not None
    path = folder / UNIT_LIST
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    assert plan(STAGES, config(), done)["first"].state == "incomplete"


def test_an_old_layout_is_stale_and_says_so(done: Path) -> None:
    folder = plan(STAGES, config(), done)["first"].folder
    assert folder is not None
    old = json.loads((folder / IDENTITY_RECORD).read_text())
    del old["layout"]
    (folder / IDENTITY_RECORD).write_text(json.dumps(old))
    folder.rename(folder.parent / "0123456789abcdef")
    now = plan(STAGES, config(), done)["first"]
    assert (now.state, now.reasons) == ("stale", ("layout of the workspace changed: 1 → 2",))


def test_recordings_that_had_changed_are_tried_again_once_a_stage_above_has_run(tmp_path: Path) -> None:
    """Though the input is the same as before: the audio is back. Other failures make no stage run again."""
    for name, reason in (("second", CHANGED), ("other", "undecodable")):
        workspace = tmp_path / name
        reject = Reject(utt_id="u", corpus="c", stage="second", kind="failed", reason=reason, duration_s=3600.0)
        carry_out(workspace, config(), "first")
        carry_out(workspace, config(), "second", report=UnitReport(kept=Tally(1, 3600.0), rejects=(reject,)))
        assert states(workspace, config())["second"] == "fresh"
        first = plan(STAGES, config(), workspace)["first"].folder
        assert first is not None
        young = (first / STAGE_RECORD).stat().st_mtime + 100
        os.utime(first / STAGE_RECORD, (young, young))
        second = plan(STAGES, config(), workspace)["second"]
        assert second.state == ("incomplete" if reason == CHANGED else "fresh")
        assert all("had changed since ingest" in line for line in second.reasons)
        assert second.fingerprint is not None
        os.utime(workspace / "second" / second.fingerprint / STAGE_RECORD, (young + 1, young + 1))  # it has run again
        assert states(workspace, config())["second"] == "fresh"
