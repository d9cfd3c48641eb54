"""Two hundred damaged inputs through the real command line: none ends in a traceback, a hang or a crash."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.fuzz.__main__ import BAD, Child, fuzz, table
from tests.fuzz.child import classify
from tests.fuzz.mutation import of_bytes, of_value


@pytest.mark.timeout(900)
def test_damaged_inputs_of_all_kinds_are_said_in_a_line_or_rejected(tmp_path: Path) -> None:
    counts, failed = fuzz(seed=1, numbers=range(200), output=tmp_path)
    assert sum(found.total() for found in counts.values()) == 200
    assert not any(found[outcome] for found in counts.values() for outcome in BAD), f"{table(counts)}\n{failed}"


def test_mutations_depend_on_the_seed_alone() -> None:
    content, value = bytes(range(256)), {"a": [1, {"b": None}], "c": "x"}
    for seed in range(50):
        first, again = (of_bytes(content, random.Random(seed)) for _ in range(2))
        assert first == again
        assert repr(of_value(value, random.Random(seed))) == repr(of_value(value, random.Random(seed)))
    assert value == {"a": [1, {"b": None}], "c": "x"}


@pytest.mark.parametrize(
    ("code", "complaint", "outcome"),
    [
        (0, "", "ok"),
        (0, "ingest 2 in → 1 kept, dropped: too_short 1", "reject"),
        (1, "BAD  w/ingest/1/part.parquet: sha256 differs\n1 wrong files", "reject"),
        (2, "error: a.yaml: no such file\n", "error"),
        (2, "some library spoke\nerror: a.yaml: no such file\n", "error"),
        (2, "", "traceback"),
        (2, "error: a\nand more lines\n", "traceback"),
        (None, 'Traceback (most recent call last):\n  File "x"\nKeyError: 1\n', "traceback"),
        (2, "ingest unit a quarantined after 1 tries: KeyError\nerror: ingest is incomplete\n", "traceback"),
    ],
)
def test_an_outcome_is_named_by_exit_code_and_what_was_said(code: object, complaint: str, outcome: str) -> None:
    assert classify(code, complaint, complaint) == outcome


def test_a_process_that_dies_is_a_crash_and_the_next_case_gets_another(tmp_path: Path) -> None:
    child = Child(1, tmp_path / "no-seeds", tmp_path / "case", limit_s=60.0)
    assert [child(number, "wav")["outcome"] for number in range(2)] == ["crash", "crash"]
    child.close()
