"""The ledger: fingerprints follow meaning, files are whole or absent, the record is written last."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from flowse.data.manifest import Reject
from flowse.data.parquet import read_rows
from flowse.errors import UserError
from flowse.files import write_json
from pipelines.engine import ledger
from pipelines.engine.accounts import Tally, UnitReport, merge


@dataclass(frozen=True, kw_only=True)
class Inner:
    width: int = 3


@dataclass(frozen=True, kw_only=True)
class Config:
    snr_db: float = 5.0
    batch: int = field(default=8, metadata={"fingerprint": False})
    younger: str = field(default="as before", metadata={"fingerprint": "unless default"})
    model: str = field(default="", metadata={"model": True})
    inner: Inner = field(default_factory=Inner)


def mark(config: Config, seed: int = 0, inputs: dict[str, str] | None = None) -> str:
    return ledger.fingerprint(ledger.identity("simulate", 1, config, seed, inputs or {}))


def test_a_fingerprint_changes_with_all_that_can_change_the_output() -> None:
    marks = [
        mark(Config()),
        mark(Config(snr_db=6.0)),
        mark(Config(inner=Inner(width=4))),
        mark(Config(), seed=1),
        mark(Config(), inputs={"ingest": "abc"}),
        ledger.fingerprint(ledger.identity("simulate", 2, Config(), 0, {})),
    ]
    assert len(set(marks)) == len(marks)


def test_a_fingerprint_ignores_what_cannot_change_the_output(tmp_path: Path) -> None:
    assert mark(Config(batch=8)) == mark(Config(batch=64))
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.pt").write_bytes(b"weights")
    (tmp_path / "b" / "README.md").write_text("a card")
    assert mark(Config(model=str(tmp_path / "a"))) == mark(Config(model=str(tmp_path / "b")))


def test_a_key_that_was_added_later_enters_the_fingerprint_where_it_is_used() -> None:
    assert not any("younger" in key for key in ledger.identity("simulate", 1, Config(), 0, {}))
    assert mark(Config(younger="in another way")) != mark(Config(younger="as before")) == mark(Config())


def test_a_models_content_enters_the_fingerprint(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(b"one")
    before = mark(Config(model=str(path)))
    path.write_bytes(b"other")
    assert mark(Config(model=str(path))) != before


def commit(folder: Path, unit: str, content: bytes = b"rows", rejects: tuple[Reject, ...] = ()) -> None:
    output = ledger.UnitFolder(folder, unit)
    output.path(".parquet").write_bytes(content)
    taken = Tally(1 + len(rejects), 2.0 + sum(one.duration_s for one in rejects))
    output.commit(taken, UnitReport(kept=Tally(1, 2.0), rejects=rejects))


REJECT = Reject(utt_id="c/x", corpus="c", stage="s", kind="dropped", reason="silent", duration_s=3.0)


def test_a_unit_without_its_record_does_not_exist(tmp_path: Path) -> None:
    output = ledger.UnitFolder(tmp_path, "part-0")
    output.path(".parquet").write_bytes(b"half")
    assert ledger.done_unit(tmp_path, "part-0") is None
    assert not (tmp_path / "part-0.parquet").exists()
    output.discard()
    assert list(tmp_path.iterdir()) == []


def test_a_committed_unit_comes_back_with_its_books_and_rejects(tmp_path: Path) -> None:
    commit(tmp_path, "part-0", rejects=(REJECT,))
    record = ledger.done_unit(tmp_path, "part-0")
    assert record is not None
    report = ledger.from_json(record["books"])
    assert (report.taken, report.kept) == (Tally(2, 5.0), Tally(1, 2.0))
    assert report.dropped == {"silent": Tally(1, 3.0)}
    assert list(read_rows(tmp_path / f"part-0{ledger.REJECTS_SUFFIX}", Reject)) == [REJECT]


def test_a_unit_that_loses_an_utterance_is_refused(tmp_path: Path) -> None:
    output = ledger.UnitFolder(tmp_path, "part-0")
    with pytest.raises(ValueError, match="do not balance"):
        output.commit(Tally(2, 4.0), UnitReport(kept=Tally(1, 2.0)))
    assert ledger.done_unit(tmp_path, "part-0") is None


@pytest.mark.parametrize("harm", ["truncate", "delete", "half a record"])
def test_a_harmed_unit_is_not_done(tmp_path: Path, harm: str) -> None:
    commit(tmp_path, "part-0")
    path = tmp_path / "part-0.parquet"
    if harm == "truncate":
        path.write_bytes(path.read_bytes()[:-1])
    elif harm == "delete":
        path.unlink()
    else:
        record = tmp_path / "part-0.json"
        record.write_text(record.read_text()[:20])
    assert ledger.done_unit(tmp_path, "part-0") is None


def stage(folder: Path) -> ledger.StageFolder:
    write_json(folder / ledger.IDENTITY_RECORD, {"stage": "s"})
    commit(folder, "part-0")
    commit(folder, "part-1", content=b"more")
    with ledger.atomic_file(folder / "sub" / "index.txt.parquet") as (path, facts):
        path.write_bytes(b"index")
    units = ledger.done_units(folder)
    report = merge(ledger.from_json(one["books"]) for one in units.values())
    ledger.commit_stage(folder, report, list(units), {"sub/index.txt.parquet": facts})
    finished = ledger.open_stage(folder)
    assert finished is not None
    return finished


def test_a_stage_hands_out_its_files_in_order(tmp_path: Path) -> None:
    finished = stage(tmp_path)
    assert [path.name for path in finished.parts(".parquet")] == ["part-0.parquet", "part-1.parquet"]
    assert finished.file("sub/index.txt.parquet").read_bytes() == b"index"
    with pytest.raises(UserError, match=r"no file 'other'"):
        finished.file("other")


def test_the_digest_depends_on_content_alone(tmp_path: Path) -> None:
    one, two = tmp_path / "1" / "f", tmp_path / "2" / "f"
    one.mkdir(parents=True)
    two.mkdir(parents=True)
    assert stage(one).digest == stage(two).digest
    commit(two, "part-1", content=b"changed")
    record = ledger.commit_stage(two, merge([]), ["part-0", "part-1"], {})
    assert record["digest"] != stage(one).digest


def test_verify_names_a_flipped_byte_a_truncated_a_missing_and_a_surplus_file(tmp_path: Path) -> None:
    finished = stage(tmp_path)
    assert finished.verify() == []
    (tmp_path / "part-0.parquet").write_bytes(b"rovs")
    (tmp_path / "part-1.parquet").write_bytes(b"mor")
    (tmp_path / "sub" / "index.txt.parquet").unlink()
    (tmp_path / "part-9.tar").write_bytes(b"?")
    wrong = finished.verify()
    assert len(wrong) == 4
    for name, word in (("part-0", "differs"), ("part-1", "truncated"), ("index", "missing"), ("part-9", "surplus")):
        assert any(name in line and word in line for line in wrong), (name, wrong)


def test_identities_survive_json(tmp_path: Path) -> None:
    identity = ledger.identity("s", 1, Config(), 3, {"ingest": "d"})
    write_json(tmp_path / "i.json", identity)
    assert ledger.fingerprint(json.loads((tmp_path / "i.json").read_text())) == ledger.fingerprint(identity)
