"""The plan: a stage runs when something that it depends on changed, says what, and nothing else runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipelines.commands import explain, gc, status
from pipelines.engine.accounts import Tally, UnitReport, merge
from pipelines.engine.plan import StagePlan, plan
from pipelines.engine.records import IDENTITY_RECORD, RunFacts, write_record
from pipelines.engine.workspace import UnitFolder, commit_stage


@dataclass(frozen=True, kw_only=True)
class Config:
    key: float = 1.0


FIRST = SimpleNamespace(NAME="first", READS=(), REVISION=1)
SECOND = SimpleNamespace(NAME="second", READS=("first",), REVISION=1)
STAGES = (FIRST, SECOND)


def config(**values: Any) -> Any:
    return SimpleNamespace(**{"seed": 0, "first": Config(), "second": Config(), **values})


def states(workspace: Path, settings: Any) -> dict[str, str]:
    return {name: one.state for name, one in plan(STAGES, settings, workspace).items()}


def carry_out(workspace: Path, settings: Any, name: str, content: bytes = b"rows", commit: bool = True) -> StagePlan:
    """Do what the runner does for one stage, without Ray."""
    one = plan(STAGES, settings, workspace)[name]
    assert one.folder is not None
    one.folder.mkdir(parents=True)
    write_record(one.folder / IDENTITY_RECORD, one.identity)
    output = UnitFolder(one.folder, "part-0")
    output.path(".parquet").write_bytes(content)
    account = output.commit(Tally(2, 7200.0), UnitReport(kept=Tally(2, 7200.0)))
    if commit:
        run = RunFacts(seconds=1.0, code_commit="c", finished_at="now", versions={})
        commit_stage(one.folder, merge([account]), ["part-0"], {}, run)
    return one


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
    one = plan(STAGES, alone, done)["second"]
    assert one.fingerprint is not None
    assert one.identity.inputs == {}
    carry_out(done, alone, "second")
    assert states(done, config(first=Config(key=3.0), second=Sufficient()))["second"] == "fresh"


def test_nothing_is_there_at_first(tmp_path: Path) -> None:
    plans = plan(STAGES, config(), tmp_path)
    assert [one.state for one in plans.values()] == ["missing", "missing"]
    assert plans["second"].fingerprint is None
    assert plans["second"].reasons == ("reads first, which is missing",)


def test_what_is_done_is_fresh(done: Path) -> None:
    assert states(done, config()) == {"first": "fresh", "second": "fresh"}


def test_a_changed_key_makes_the_stage_and_its_readers_stale_and_nothing_before(done: Path) -> None:
    plans = plan(STAGES, config(second=Config(key=2.0)), done)
    assert [one.state for one in plans.values()] == ["fresh", "stale"]
    assert plans["second"].reasons == ("key changed: 1.0 → 2.0",)
    plans = plan(STAGES, config(first=Config(key=2.0)), done)
    assert [one.state for one in plans.values()] == ["stale", "stale"]
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
    assert "1 units are done" in plan(STAGES, config(), tmp_path)["first"].reasons[0]


def test_a_lost_file_is_named(done: Path) -> None:
    folder = plan(STAGES, config(), done)["first"].folder
    assert folder is not None
    (folder / "part-0.parquet").unlink()
    one = plan(STAGES, config(), done)["first"]
    assert one.state == "incomplete"
    assert "part-0.parquet is missing" in one.reasons[0]


def test_gc_finds_what_the_configuration_does_not_need_and_nothing_else(done: Path) -> None:
    settings = config(second=Config(key=2.0))
    old = plan(STAGES, config(), done)["second"].folder
    carry_out(done, settings, "second")
    assert gc.unneeded(plan(STAGES, settings, done), done) == [old]
    # While `first` is stale nobody knows which output of `second` will fit: keep them all.
    unknown = config(first=Config(key=9.0))
    assert [path.parent.name for path in gc.unneeded(plan(STAGES, unknown, done), done)] == ["first"]


def test_status_shows_books_that_balance(done: Path) -> None:
    row = status.status_row(plan(STAGES, config(), done)["first"])
    assert row["state"] == "fresh"
    assert row["in"] == {"utterances": 2, "hours": 2.0}
    assert row["in"]["utterances"] == sum(row[key]["utterances"] for key in ("kept", "dropped", "failed"))
    table = status.status_table(plan(STAGES, config(), done))
    assert table.splitlines()[0].startswith("stage")
    assert "fresh" in table


def test_explain_says_up_to_date_or_why_not(done: Path) -> None:
    plans = plan(STAGES, config(second=Config(key=2.0)), done)
    assert "up to date" in explain.explanation(plans["first"])
    assert "key changed: 1.0 → 2.0" in explain.explanation(plans["second"])
