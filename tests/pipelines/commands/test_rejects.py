"""The reject report: every row is counted once, under its stage, corpus and reason."""

from __future__ import annotations

import csv
import dataclasses
import io
import random
from pathlib import Path
from typing import Any

import pytest

from flowse.data.manifest import Reject
from flowse.data.parquet import read_rows, write_rows
from pipelines.commands.rejects import RejectSum, reject_csv, reject_files, reject_report, reject_table, write_report
from pipelines.engine.accounts import StageReport, Tally
from pipelines.engine.fingerprint import Identity
from pipelines.engine.plan import StagePlan
from pipelines.engine.records import IDENTITY_RECORD, REJECTS_SUFFIX, RunFacts, write_record
from pipelines.engine.workspace import commit_stage, open_stage, units_of, write_planned

IDENTITY = Identity("ingest", 1, 0, {}, {})
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
    settings: dict[str, Any] = {
        "state": "incomplete",
        "identity": IDENTITY,
        "finished": None,
        "reasons": (),
    }
    return StagePlan(name="ingest", fingerprint=folder.name, folder=folder, **{**settings, **values})


def test_the_report_adds_up(files: list[Path]) -> None:
    report = reject_report(files)
    assert sum(line.utterances for line in report) == len(ROWS)
    assert sum(line.hours for line in report) == len(ROWS) / 2
    (silent,) = [line for line in report if (line.corpus, line.reason) == ("b", "silent")]
    assert silent == RejectSum("ingest", "b", "dropped", "silent", 2, 1.0, "d")
    assert "too_short" in reject_table(report)


def test_sums_do_not_depend_on_files_and_batches(tmp_path: Path) -> None:
    """Every row is counted, whatever its neighbours, and the example of a line is the detail of its first row."""
    rng = random.Random(0)
    rows = [
        Reject(
            utt_id=f"u{number}",
            corpus=rng.choice(["a", "b", "c"]),
            stage=rng.choice(["ingest", "transcribe"]),
            kind=rng.choice(["dropped", "failed"]),
            reason=rng.choice(["silent", "too_short", "undecodable"]),
            detail=f"détail {number}",
            duration_s=rng.random(),
        )
        for number in range(5000)
    ]
    whole = tmp_path / "whole.parquet"
    write_rows(whole, Reject, rows)
    parts = [tmp_path / f"{begin}.parquet" for begin in range(0, 5000, 700)]
    for number, part in enumerate(parts):
        write_rows(part, Reject, rows[number * 700 : (number + 1) * 700])
    report, again = reject_report([whole]), reject_report(parts)
    for line, other in zip(report, again, strict=True):
        assert dataclasses.replace(line, hours=0.0) == dataclasses.replace(other, hours=0.0)
        assert line.hours == pytest.approx(other.hours)
        own = [row for row in rows if (row.stage, row.corpus, row.kind, row.reason) == dataclasses.astuple(line)[:4]]
        assert (line.utterances, line.example) == (len(own), own[0].detail)
        assert line.hours == pytest.approx(sum(row.duration_s for row in own) / 3600)


def test_no_rejects_is_said_and_written(tmp_path: Path) -> None:
    empty = tmp_path / "empty.parquet"
    write_rows(empty, Reject, [])
    for report in (reject_report([]), reject_report([empty])):
        assert reject_table(report) == "nothing was rejected"
        assert list(read_rows(write_report(report, tmp_path), RejectSum)) == []


def test_an_unfinished_stage_tells_of_the_units_that_are_done(files: list[Path], tmp_path: Path) -> None:
    folder = tmp_path / "out"
    for made in (folder, units_of(folder)):
        made.mkdir()
    moved = [path.rename(units_of(folder) / path.name) for path in files]
    for path in moved:
        (units_of(folder) / f"{path.name.removesuffix(REJECTS_SUFFIX)}.json").touch()
    write_planned(folder, [str(number) for number in range(9)], ())
    plans = {"ingest": stage_plan(folder)}
    assert reject_files(plans) == moved
    write_rows(folder / "rejects.parquet", Reject, ROWS)
    assert reject_files(plans) == [folder / "rejects.parquet"]


def test_the_file_holds_what_the_table_shows(files: list[Path], tmp_path: Path) -> None:
    report = reject_report(files)
    path = write_report(report, tmp_path)
    assert path == tmp_path / "reports" / "rejects.parquet"
    assert list(read_rows(path, RejectSum)) == report


def test_csv_has_a_line_of_heads_and_a_line_for_each_sum(files: list[Path]) -> None:
    report = reject_report(files)
    lines = list(csv.DictReader(io.StringIO(reject_csv(report))))
    assert [line["utterances"] for line in lines] == [str(line.utterances) for line in report]
    assert list(lines[0]) == ["stage", "corpus", "kind", "reason", "utterances", "hours", "example"]


def test_each_stage_has_a_sum_and_its_share(files: list[Path], tmp_path: Path) -> None:
    books = StageReport(taken=Tally(24, 43200.0), kept=Tally(18, 32400.0), dropped={"silent": Tally(6, 10800.0)})
    write_record(tmp_path / IDENTITY_RECORD, IDENTITY)
    commit_stage(tmp_path, books, [], {}, RunFacts(code_commit="c", versions={}, seconds=1.0, finished_at="now"))
    plans = {"ingest": stage_plan(tmp_path, finished=open_stage(tmp_path), state="fresh")}
    last = reject_table(reject_report(files), plans).splitlines()[-1].split()
    assert last == ["ingest", "all", "6", "3.0000", "25.0%"]


def test_no_cell_of_the_csv_is_a_formula() -> None:
    line = RejectSum("ingest", "c", "dropped", "too_short", 1, 0.5, "=cmd|' /C calc'!A0.wav: 0.1 s")
    assert ",'=cmd|' /C calc'!A0.wav" in reject_csv([line])
