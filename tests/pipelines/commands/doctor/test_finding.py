"""Findings: one line each, the worst last, and an error is what stops."""

from __future__ import annotations

from pipelines.commands.doctor.finding import Finding, report


def test_only_errors_are_unsound() -> None:
    assert [Finding(severity, "x", "y").sound for severity in ("ok", "warning", "error")] == [True, True, False]


def test_the_worst_stand_last_and_are_counted() -> None:
    found = [Finding("error", "a", "b", "mend it"), Finding("ok", "c", "d"), Finding("warning", "e", "f")]
    assert report(found).splitlines() == [
        "ok       c: d",
        "WARNING  e: f",
        "ERROR    a: b; mend it",
        "1 error, 1 warning",
    ]
