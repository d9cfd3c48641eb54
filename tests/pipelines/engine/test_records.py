"""Laws of records: the form on disk stays, and a record of another form is one line that says what to do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from flowse.errors import UserError
from pipelines.engine.accounts import StageReport, Tally
from pipelines.engine.fingerprint import Identity
from pipelines.engine.records import FileFacts, StageRecord, UnitRecord, read_record, write_record

# What a stage and a unit hold; whoever changes the form makes all work stale.
UNIT_TEXT = """{
 "books": {
  "dropped": {
   "silent": {
    "seconds": 3.0,
    "utterances": 1
   }
  },
  "failed": {},
  "kept": {
   "seconds": 2.5,
   "utterances": 1
  },
  "metrics": {
   "bytes": 7
  },
  "notes": [],
  "quarantined": [],
  "taken": {
   "seconds": 5.5,
   "utterances": 2
  }
 },
 "files": {
  "part-0.parquet": {
   "bytes": 12,
   "sha256": "ab"
  }
 },
 "unit": "part-0"
}
"""
IDENTITY = {
    "config.content of a": "d",
    "config.snr_db": [0.0, 5.0],
    "input ingest": "i",
    "revision": 1,
    "seed": 7,
    "layout": 2,
}
STAGE: dict[str, Any] = {
    "books": json.loads(UNIT_TEXT)["books"],
    "lacks": ["ingest/part-1"],
    "code_commit": "c",
    "digest": "d",
    "files": json.loads(UNIT_TEXT)["files"],
    "fingerprint": "0123",
    "finished_at": "2026-11-26T01:29:01+0000",
    "identity": IDENTITY | {"stage": "simulate"},
    "mlflow_run": None,
    "parents": {"ingest": "4567"},
    "seconds": 1.5,
    "stage": "simulate",
    "units": 3,
    "versions": {"torch": "2"},
    "worked_s": 7.5,
}


def test_a_units_record_is_read_and_written_to_the_letter(tmp_path: Path) -> None:
    path = tmp_path / "part-0.json"
    path.write_text(UNIT_TEXT)
    report = StageReport(Tally(2, 5.5), Tally(1, 2.5), {"silent": Tally(1, 3.0)}, metrics={"bytes": 7})
    assert read_record(UnitRecord, path) == UnitRecord("part-0", {"part-0.parquet": FileFacts(12, "ab")}, report)
    write_record(tmp_path / "again.json", UnitRecord("part-0", {"part-0.parquet": FileFacts(12, "ab")}, report))
    assert (tmp_path / "again.json").read_text() == UNIT_TEXT


def test_a_stages_record_is_read_and_written_to_the_letter(tmp_path: Path) -> None:
    path = tmp_path / "STAGE.json"
    path.write_text(json.dumps(STAGE, indent=1, sort_keys=True) + "\n")
    record = read_record(StageRecord, path)
    assert record is not None
    assert record.identity == Identity("simulate", 1, 7, {"content of a": "d", "snr_db": [0.0, 5.0]}, {"ingest": "i"})
    assert (record.parents, record.mlflow_run, record.units) == ({"ingest": "4567"}, None, 3)
    write_record(tmp_path / "again.json", record)
    assert (tmp_path / "again.json").read_bytes() == path.read_bytes()


OPTIONAL = ("parents", "mlflow_run", "lacks", "worked_s")


def test_a_record_may_name_neither_parents_nor_a_run(tmp_path: Path) -> None:
    old = {key: value for key, value in STAGE.items() if key not in OPTIONAL}
    (tmp_path / "STAGE.json").write_text(json.dumps(old))
    record = read_record(StageRecord, tmp_path / "STAGE.json")
    assert record is not None
    assert (record.parents, record.mlflow_run, record.lacks, record.worked_s) == ({}, None, (), 0.0)


@pytest.mark.parametrize("content", [None, b"", b'{"unit": "par', b"\xff\xfe\x00"])
@pytest.mark.parametrize("kind", [Identity, UnitRecord, StageRecord])
def test_a_record_that_is_absent_or_cut_is_none(tmp_path: Path, kind: Any, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "x.json").write_bytes(content)
    assert read_record(kind, tmp_path / "x.json") is None
    assert read_record(kind, tmp_path / "x.json" / "below a file") is None


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"digest": 5}, "digest is 5, not a text"),
        ({"files": {"a.tar": {"bytes": "12", "sha256": "ab"}}}, "files['a.tar'].bytes is '12', not a whole number"),
        ({"identity": {"stage": "s"}}, "identity: revision is missing"),
        ({"node": "x"}, "node is unknown, perhaps of a newer version"),
        ({"books": STAGE["books"] | {"dropped": {}}}, "books: the books do not balance"),
    ],
)
def test_another_form_is_one_line_with_file_reason_and_remedy(
    tmp_path: Path, change: dict[str, Any], reason: str
) -> None:
    path = tmp_path / "STAGE.json"
    path.write_text(json.dumps(STAGE | change))
    with pytest.raises(UserError) as caught:
        read_record(StageRecord, path)
    message = str(caught.value)
    assert message.startswith(f"{path}: not a record that this version reads: {reason}")
    assert message.endswith("delete this file, and the stage is finished again from the units that are done")
    assert "\n" not in message


@pytest.mark.parametrize("key", sorted(STAGE.keys() - set(OPTIONAL)))
def test_every_missing_key_is_named(tmp_path: Path, key: str) -> None:
    (tmp_path / "STAGE.json").write_text(json.dumps({name: value for name, value in STAGE.items() if name != key}))
    with pytest.raises(UserError, match=f"{key} is missing"):
        read_record(StageRecord, tmp_path / "STAGE.json")


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/../../x", "", "a\\b", "a\nb", "x" * 300])
def test_a_record_with_names_that_lead_out_of_its_folder_is_refused(tmp_path: Path, name: str) -> None:
    """`verify --mend` deletes records by the names of units: a stranger's workspace must not choose other files."""
    path = tmp_path / "STAGE.json"
    for changed in ({"lacks": [name]}, {"files": {name: {"bytes": 1, "sha256": "ab"}}}):
        path.write_text(json.dumps(STAGE | changed))
        with pytest.raises(UserError, match="no name within the folder") as caught:
            read_record(StageRecord, path)
        assert "\n" not in str(caught.value)
    path.write_text(json.dumps(json.loads(UNIT_TEXT) | {"unit": name}))
    with pytest.raises(UserError, match="no name within the folder"):
        read_record(UnitRecord, path)


def test_a_record_nested_too_deeply_is_none(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("[" * 100_000)
    assert read_record(UnitRecord, tmp_path / "x.json") is None
    (tmp_path / "y.json").mkdir()
    assert read_record(UnitRecord, tmp_path / "y.json") is None
