"""Laws of the folders of outputs: a unit or a stage exists from its record on, and a wrong file is found and named."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from flowse.data.manifest import Reject
from flowse.data.parquet import read_rows
from flowse.errors import DamagedFile, UserError
from flowse.files import sha256_file, write_bytes
from pipelines.engine import records
from pipelines.engine.accounts import Tally, UnitReport, merge
from pipelines.engine.fingerprint import Identity
from pipelines.engine.records import IDENTITY_RECORD, REJECTS_SUFFIX, STAGE_RECORD, FileFacts, RunFacts, write_record
from pipelines.engine.workspace import (
    StageFolder,
    UnitFolder,
    commit_stage,
    done_unit,
    done_units,
    open_stage,
    outputs,
    rejects_of,
)

RUN = RunFacts(code_commit="c", versions={}, seconds=1.0, finished_at="2026-01-01T00:00:00+0000")


def commit(folder: Path, unit: str, content: bytes = b"rows", rejects: tuple[Reject, ...] = ()) -> None:
    output = UnitFolder(folder, unit)
    output.path(".parquet").write_bytes(content)
    taken = Tally(1 + len(rejects), 2.0 + sum(reject.duration_s for reject in rejects))
    output.commit(taken, UnitReport(kept=Tally(1, 2.0), rejects=rejects))


REJECT = Reject(utt_id="c/x", corpus="c", stage="s", kind="dropped", reason="silent", duration_s=3.0)


def test_a_unit_without_its_record_does_not_exist(tmp_path: Path) -> None:
    output = UnitFolder(tmp_path, "part-0")
    output.path(".parquet").write_bytes(b"half")
    assert done_unit(tmp_path, "part-0") is None
    assert not (tmp_path / "part-0.parquet").exists()
    output.discard()
    assert list(tmp_path.iterdir()) == []


def test_a_committed_unit_comes_back_with_its_books_and_rejects(tmp_path: Path) -> None:
    commit(tmp_path, "part-0", rejects=(REJECT,))
    record = done_unit(tmp_path, "part-0")
    assert record is not None
    assert (record.report.taken, record.report.kept) == (Tally(2, 5.0), Tally(1, 2.0))
    assert record.report.dropped == {"silent": Tally(1, 3.0)}
    assert list(read_rows(tmp_path / f"part-0{REJECTS_SUFFIX}", Reject)) == [REJECT]


def test_a_unit_that_loses_an_utterance_is_refused(tmp_path: Path) -> None:
    output = UnitFolder(tmp_path, "part-0")
    with pytest.raises(ValueError, match="do not balance"):
        output.commit(Tally(2, 4.0), UnitReport(kept=Tally(1, 2.0)))
    assert done_unit(tmp_path, "part-0") is None


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
    assert done_unit(tmp_path, "part-0") is None


def stage(folder: Path) -> StageFolder:
    write_record(folder / IDENTITY_RECORD, Identity("s", 1, 0, {}, {}))
    commit(folder, "part-0")
    commit(folder, "part-1", content=b"more")
    write_bytes(folder / "sub" / "index.txt.parquet", b"index")
    units = done_units(folder)
    files = {"sub/index.txt.parquet": FileFacts.of(folder / "sub" / "index.txt.parquet")}
    commit_stage(folder, merge(unit.report for unit in units.values()), list(units), files, RUN)
    finished = open_stage(folder)
    assert finished is not None
    return finished


def test_a_stage_hands_out_its_files_in_order(tmp_path: Path) -> None:
    finished = stage(tmp_path)
    assert [path.name for path in finished.parts(".parquet")] == ["part-0.parquet", "part-1.parquet"]
    assert finished.file("sub/index.txt.parquet").read_bytes() == b"index"
    with pytest.raises(UserError, match=r"no file 'other'"):
        finished.file("other")


def test_the_digest_depends_on_content_alone(tmp_path: Path) -> None:
    left, right = tmp_path / "1" / "f", tmp_path / "2" / "f"
    left.mkdir(parents=True)
    right.mkdir(parents=True)
    assert stage(left).digest == stage(right).digest
    commit(right, "part-1", content=b"changed")
    record = commit_stage(right, merge([]), ["part-0", "part-1"], {}, RUN)
    assert record.digest != stage(left).digest


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


def test_json_files_of_the_stage_are_no_units(tmp_path: Path) -> None:
    commit(tmp_path, "part-0")
    for name, text in (
        ("dataset", '{"digest": "d"}'),
        ("list", "[]"),
        ("copied", (tmp_path / "part-0.json").read_text()),
    ):
        (tmp_path / f"{name}.json").write_text(text)
    assert list(done_units(tmp_path)) == ["part-0"]


def test_a_units_record_of_another_form_is_named(tmp_path: Path) -> None:
    (tmp_path / "part-0.json").write_text('{"unit": "part-0", "files": {}}')
    with pytest.raises(UserError, match=r"part-0\.json: .* books is missing; .* the unit is done again"):
        done_units(tmp_path)


def test_a_file_that_belongs_to_no_unit_undoes_the_stage_alone(tmp_path: Path) -> None:
    finished = stage(tmp_path)
    (tmp_path / "sub" / "index.txt.parquet").write_bytes(b"indey")
    assert finished.forget_damaged() == ["stage files"]
    assert open_stage(tmp_path) is None
    assert list(done_units(tmp_path)) == ["part-0", "part-1"]


def test_a_wrong_file_undoes_its_unit_and_the_stage(tmp_path: Path) -> None:
    finished = stage(tmp_path)
    assert finished.forget_damaged() == []
    (tmp_path / "part-1.parquet").write_bytes(b"mory")
    assert finished.forget_damaged() == ["part-1"]
    assert open_stage(tmp_path) is None
    assert list(done_units(tmp_path)) == ["part-0"]


def test_a_stage_is_not_committed_without_its_identity_or_a_unit(tmp_path: Path) -> None:
    finished = stage(tmp_path)
    (tmp_path / "part-1.json").unlink()
    with pytest.raises(UserError, match="part-1: vanished"):
        commit_stage(tmp_path, finished.report, finished.record.units, {}, RUN)
    (tmp_path / IDENTITY_RECORD).unlink()
    with pytest.raises(UserError, match=r"identity\.json: vanished"):
        commit_stage(tmp_path, finished.report, ["part-0"], {}, RUN)


def test_the_outputs_of_a_workspace_come_in_the_order_of_stages_and_age(tmp_path: Path) -> None:
    for age, (name, mark) in enumerate((("second", "a"), ("first", "b"), ("first", "a"))):
        folder = tmp_path / name / mark
        folder.mkdir(parents=True)
        stage(folder)
        os.utime(folder / IDENTITY_RECORD, (1e9 + age, 1e9 + age))
    (tmp_path / "first" / "a" / STAGE_RECORD).unlink()
    (tmp_path / "first" / "no output").mkdir()
    found = outputs(tmp_path, ["first", "second"])
    assert [output.name for output in found] == ["first/b", "first/a", "second/a"]
    assert [output.finished is not None for output in found] == [True, False, True]
    # Begun or finished, the parts of the units that are done are there.
    assert [[path.name for path in output.parts(".parquet")] for output in found] == [
        ["part-0.parquet", "part-1.parquet"]
    ] * 3


def test_rejects_are_those_of_the_stage_or_of_the_units_that_are_done(tmp_path: Path) -> None:
    commit(tmp_path, "part-0", rejects=(REJECT,))
    commit(tmp_path, "part-1")
    assert rejects_of(tmp_path) == [tmp_path / f"part-0{REJECTS_SUFFIX}"]
    (tmp_path / "rejects.parquet").touch()
    assert rejects_of(tmp_path) == [tmp_path / "rejects.parquet"]


@pytest.fixture
def finished(tmp_path: Path) -> StageFolder:
    """A finished stage of one unit and the files of a model."""
    folder = tmp_path / "stage" / "abc"
    write_record(folder / IDENTITY_RECORD, Identity("stage", 1, 0, {}, {}))
    commit(folder, "part-0")
    for name in ("model/config.json", "model/weights"):
        write_bytes(folder / name, b"content")
    files = {name: FileFacts.of(folder / name) for name in ("model/config.json", "model/weights")}
    commit_stage(folder, merge([]), ["part-0"], files, RUN)
    stage = open_stage(folder)
    assert stage is not None
    return stage


@pytest.mark.parametrize("damage", ["a flipped bit", "cut", "gone", "a folder"])
def test_a_reader_gets_no_file_that_differs_from_its_record(finished: StageFolder, damage: str) -> None:
    assert finished.parts(".parquet") == [finished.folder / "part-0.parquet"]
    assert finished.file("model/weights").read_bytes() == b"content"
    assert finished.tree("model") == finished.folder / "model"
    for name in ("part-0.parquet", "model/weights"):
        path = finished.folder / name
        content = path.read_bytes()
        path.unlink()
        if damage == "a folder":
            path.mkdir()
        elif damage != "gone":
            path.write_bytes(content[:-1] if damage == "cut" else content[:-1] + bytes([content[-1] ^ 1]))
    for read, name in ((finished.parts, ".parquet"), (finished.file, "model/weights"), (finished.tree, "model")):
        with pytest.raises(DamagedFile, match=r"(part-0\.parquet|model/weights): .*verify --mend"):
            read(name)


def test_a_file_is_hashed_once_a_process(finished: StageFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed = []
    monkeypatch.setattr(records, "sha256_file", lambda path: hashed.append(path) or sha256_file(path))
    for _ in range(3):
        finished.parts(".parquet")
        finished.file("model/weights")
    assert len(hashed) == 2


def test_a_folder_that_the_record_does_not_name_is_refused(finished: StageFolder) -> None:
    with pytest.raises(UserError, match="names no folder 'other'"):
        finished.tree("other")
