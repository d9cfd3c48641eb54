"""Recorded rates: of the same configuration, of the units that the run itself did, and of the same training step."""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import pytest

from pipelines.commands.preview.recorded import recorded_rate, recorded_step_s
from pipelines.engine.accounts import Tally, UnitReport, merge
from pipelines.engine.fingerprint import Identity
from pipelines.engine.records import IDENTITY_RECORD, STAGE_RECORD, RunFacts, write_record
from pipelines.engine.units import UnitFolder
from pipelines.engine.workspace import commit_stage, units_of

IDENTITY = Identity("simulate", 1, 1, {"copies": 2}, {"ingest": "abc"})
TRAIN = Identity("train", 1, 1, {"max_steps": 100, "frames_per_step": 4000, "model.dim": 32}, {})


def changed(identity: Identity, **settings: Any) -> Identity:
    return dataclasses.replace(identity, settings={**identity.settings, **settings})


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """Three units of 60, 120 and 180 s, done in 10 s."""
    folder = tmp_path / "simulate" / "0123456789abcdef"
    folder.mkdir(parents=True)
    units_of(folder).mkdir()
    write_record(folder / IDENTITY_RECORD, IDENTITY)
    records = []
    for number in (1, 2, 3):
        tally = Tally(number, 60.0 * number)
        records.append(UnitFolder(units_of(folder), f"u-{number}").commit(tally, UnitReport(tally)))
    when = time.strftime("%Y-%m-%dT%H:%M:%S%z")
    run = RunFacts(seconds=10.0, finished_at=when, code_commit="c", versions={}, worked_s=360.0)
    commit_stage(folder, merge(record.report for record in records), records, {}, run)
    return tmp_path


def test_the_rate_is_seconds_of_audio_a_second(workspace: Path) -> None:
    found = recorded_rate(workspace, "simulate", IDENTITY)
    assert found is not None
    assert found[0] == pytest.approx(36.0)
    assert found[1].startswith("the run of 2")


def test_only_the_same_configuration_counts(workspace: Path) -> None:
    assert recorded_rate(workspace, "simulate", changed(IDENTITY, copies=9)) is None
    other_input = dataclasses.replace(IDENTITY, inputs={"ingest": "other"}, seed=2)
    assert recorded_rate(workspace, "simulate", other_input) is not None
    assert recorded_rate(workspace, "transcribe", IDENTITY) is None


def test_units_of_an_earlier_try_do_not_count(workspace: Path) -> None:
    """A run that went on where another was cut off did the rest only, in its seconds."""
    path = workspace / "simulate" / "0123456789abcdef" / STAGE_RECORD
    path.write_text(path.read_text().replace('"worked_s": 360.0', '"worked_s": 180.0'))
    found = recorded_rate(workspace, "simulate", IDENTITY)
    assert found is not None
    assert found[0] == pytest.approx(18.0)


def test_a_begun_training_tells_its_step(tmp_path: Path) -> None:
    begun = tmp_path / "train" / "0123456789abcdef"
    (begun / ".state").mkdir(parents=True)
    write_record(begun / IDENTITY_RECORD, TRAIN)
    lines = [json.dumps({"step": step, "eta_s": 0.5 * (100 - step)}) for step in (10, 20, 100)]
    (begun / ".state" / "history.jsonl").write_text("\n".join([*lines, '{"step": 1']))
    assert recorded_step_s(tmp_path, TRAIN) == (0.5, "train/0123456789abcdef, 2 records")
    # Another network has another step; more steps of another learning rate have not.
    assert recorded_step_s(tmp_path, changed(TRAIN, **{"model.dim": 64})) is None
    assert recorded_step_s(tmp_path, changed(TRAIN, **{"optim.lr": 1.0}, max_steps=9)) is not None
