"""The reject report: every row is counted once, under its stage, corpus and reason."""

from __future__ import annotations

from pathlib import Path

from flowse.data.manifest import Reject, write_rows
from pipelines.rejects import reject_report, reject_table


def test_the_report_adds_up(tmp_path: Path) -> None:
    rows = [
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
    write_rows(tmp_path / "1.parquet", Reject, rows[:4])
    write_rows(tmp_path / "2.parquet", Reject, rows[4:])
    report = reject_report([tmp_path / "1.parquet", tmp_path / "2.parquet"])
    assert report["utterances"].sum() == len(rows)
    assert report["hours"].sum() == len(rows) / 2
    silent = report[(report.corpus == "b") & (report.reason == "silent")]
    assert silent["utterances"].tolist() == [2]
    assert "too_short" in reject_table(report)


def test_no_rejects_is_said(tmp_path: Path) -> None:
    assert reject_table(reject_report([])) == "nothing was rejected"
