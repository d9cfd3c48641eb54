"""The reject report: every row is counted once, under its stage, corpus and reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from flowse.data.manifest import Reject
from flowse.data.parquet import write_rows
from flowse.files import write_json
from pipelines.commands.rejects import reject_files, reject_report, reject_table, write_report
from pipelines.engine import ledger
from pipelines.engine.accounts import StageReport, Tally
from pipelines.engine.plan import StagePlan

ROWS = [
    Reject(
        utt_id=f"{corpus}/{n}",
        corpus=corpus,
        stage="ingest",
        kind="dropped",
        reason=reason,
        detail="d",
        duration_s=1800.0,
    )
    for corpus in ("a", "b")
    for n, reason in enumerate(["silent", "silent", "too_short"])
]


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / "1.rejects.parquet", tmp_path / "2.rejects.parquet"]
    for path, rows in zip(paths, (ROWS[:4], ROWS[4:]), strict=True):
        write_rows(path, Reject, rows)
    return paths


def stage_plan(folder: Path, **values: Any) -> StagePlan:
    settings: dict[str, Any] = {"state": "incomplete", "identity": {}, "finished": None, "reasons": ()}
    return StagePlan(name="ingest", fingerprint=folder.name, folder=folder, **{**settings, **values})


def test_the_report_adds_up(files: list[Path]) -> None:
    report = reject_report(files)
    assert report["utterances"].sum() == len(ROWS)
    assert report["hours"].sum() == len(ROWS) / 2
    silent = report[(report.corpus == "b") & (report.reason == "silent")]
    assert silent["utterances"].tolist() == [2]
    assert "too_short" in reject_table(report)


def test_no_rejects_is_said_and_written(tmp_path: Path) -> None:
    report = reject_report([])
    assert reject_table(report) == "nothing was rejected"
    assert pd.read_parquet(write_report(report, tmp_path)).empty


def test_an_unfinished_stage_tells_of_the_units_that_are_done(files: list[Path], tmp_path: Path) -> None:
    plans = {"ingest": stage_plan(tmp_path)}
    assert reject_files(plans) == files
    write_rows(tmp_path / "rejects.parquet", Reject, ROWS)
    assert reject_files(plans) == [tmp_path / "rejects.parquet"]


def test_the_file_holds_what_the_table_shows(files: list[Path], tmp_path: Path) -> None:
    report = reject_report(files)
    path = write_report(report, tmp_path)
    assert path == tmp_path / "reports" / "rejects.parquet"
    pd.testing.assert_frame_equal(pd.read_parquet(path), report)


def test_each_stage_has_a_sum_and_its_share(files: list[Path], tmp_path: Path) -> None:
    books = StageReport(taken=Tally(24, 43200.0), kept=Tally(18, 32400.0), dropped={"silent": Tally(6, 10800.0)})
    write_json(tmp_path / ledger.STAGE_RECORD, {"books": ledger.to_json(books)})
    plans = {"ingest": stage_plan(tmp_path, finished=ledger.open_stage(tmp_path), state="fresh")}
    last = reject_table(reject_report(files), plans).splitlines()[-1].split()
    assert last == ["ingest", "all", "6", "3.0000", "25.0%"]
