"""Laws of the folders of outputs: a unit or a stage exists from its record on, and a wrong file is found and named."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from flowse.data.manifest import Reject
from flowse.errors import DamagedFile, UserError
from flowse.files import sha256_file, write_bytes
from pipelines.engine import records
from pipelines.engine.accounts import Tally, UnitReport, merge
from pipelines.engine.fingerprint import Identity
from pipelines.engine.records import (
    IDENTITY_RECORD,
    REJECTS_SUFFIX,
    STAGE_RECORD,
    UNIT_LIST,
    FileFacts,
    RunFacts,
    UnitRecord,
    write_record,
)
from pipelines.engine.units import UnitFolder, done_units
from pipelines.engine.workspace import (
    StageFolder,
    commit_stage,
    open_stage,
    outputs,
    rejects_of,
    units_of,
    write_planned,
)

RUN = RunFacts(code_commit="c", versions={}, seconds=1.0, finished_at="2026-01-01T00:00:00+0000")


def commit(folder: Path, unit: str, content: bytes = b"rows", rejects: tuple[Reject, ...] = ()) -> UnitRecord:
    """Commit a unit of the stage to which the output in `folder` belongs."""
    units_of(folder).mkdir(parents=True, exist_ok=True)
    output = UnitFolder(units_of(folder), unit)
    output.path(".parquet").write_bytes(content)
    taken = Tally(1 + len(rejects), 2.0 + sum(reject.duration_s for reject in rejects))
    return output.commit(taken, UnitReport(kept=Tally(1, 2.0), rejects=rejects))


REJECT = Reject(utt_id="c/x", corpus="c", stage="s", kind="dropped", reason="silent", duration_s=3.0)


def stage(folder: Path) -> StageFolder:
    write_record(folder / IDENTITY_RECORD, Identity("s", 1, 0, {}, {}))
    units = [commit(folder, "part-1", content=b"more"), commit(folder, "part-0")]
    write_bytes(folder / "sub" / "index.txt.parquet", b"index")
    files = {"sub/index.txt.parquet": FileFacts.of(folder / "sub" / "index.txt.parquet")}
    write_planned(folder, [unit.unit for unit in units], ())
    commit_stage(folder, merge(unit.report for unit in units), units, files, RUN)
    finished = open_stage(folder)
    assert finished is not None
    return finished


def test_a_stage_hands_out_its_files_in_order(tmp_path: Path) -> None:
    finished = stage(tmp_path / "f")
    assert [path.name for path in finished.parts(".parquet")] == ["part-1.parquet", "part-0.parquet"]
    assert [file.label for file in finished.unit_files(".parquet")] == ["part-1", "part-0"]
    assert finished.file("../units/part-0.parquet").read_bytes() == b"rows"
    assert finished.file("sub/index.txt.parquet").read_bytes() == b"index"
    with pytest.raises(UserError, match=r"no file 'other'"):
        finished.file("other")


def test_the_digest_depends_on_content_alone(tmp_path: Path) -> None:
    left, right = tmp_path / "1" / "f", tmp_path / "2" / "f"
    left.mkdir(parents=True)
    right.mkdir(parents=True)
    assert stage(left).digest == stage(right).digest
    units = [commit(right, "part-1", content=b"changed"), commit(right, "part-0")]
    assert commit_stage(right, merge([]), units, {}, RUN).digest != stage(left).digest


def test_names_of_units_do_not_enter_the_digest_but_their_order_does(tmp_path: Path) -> None:
    """Other settings give other names; where the files are the same, readers stay fresh."""
    folder = tmp_path / "f"
    write_record(folder / IDENTITY_RECORD, Identity("s", 1, 0, {}, {}))
    units = [commit(folder, f"part-{mark}", content) for mark, content in (("a", b"1"), ("b", b"2"))]
    renamed = [commit(folder, f"part-{mark}", content) for mark, content in (("d", b"1"), ("c", b"2"))]
    digests = [commit_stage(folder, merge([]), listed, {}, RUN).digest for listed in (units, renamed, units[::-1])]
    assert digests[0] == digests[1] != digests[2]


def test_hidden_units_are_kept_and_not_seen(tmp_path: Path) -> None:
    folder = tmp_path / "f"
    write_record(folder / IDENTITY_RECORD, Identity("s", 1, 0, {}, {}))
    plan, shard = commit(folder, "plan", b"plan"), commit(folder, "shard", b"shard")
    alone = commit_stage(folder, shard.report, [shard], {}, RUN)
    record = commit_stage(folder, shard.report, [plan, shard], {}, RUN, hidden={"plan"})
    assert (record.units, record.digest) == (1, alone.digest)
    finished = open_stage(folder)
    assert finished is not None
    assert [path.name for path in finished.parts(".parquet")] == ["shard.parquet"]
    assert finished.table.names == ["plan", "shard"]
    (units_of(folder) / "plan.parquet").unlink()
    assert finished.damaged() == ["../units/plan.parquet"]


def test_verify_names_a_flipped_byte_a_truncated_a_missing_and_a_surplus_file(tmp_path: Path) -> None:
    finished = stage(tmp_path / "f")
    assert finished.verify() == []
    (tmp_path / "units" / "part-0.parquet").write_bytes(b"rovs")
    (tmp_path / "units" / "part-1.parquet").write_bytes(b"mor")
    (tmp_path / "f" / "sub" / "index.txt.parquet").unlink()
    (tmp_path / "f" / "part-9.tar").write_bytes(b"?")
    wrong = finished.verify()
    assert len(wrong) == 4
    for name, word in (("part-0", "differs"), ("part-1", "truncated"), ("index", "missing"), ("part-9", "surplus")):
        assert any(name in line and word in line for line in wrong), (name, wrong)


def test_a_file_that_belongs_to_no_unit_undoes_the_stage_alone(tmp_path: Path) -> None:
    for name in ("sub/index.txt.parquet", UNIT_LIST):
        finished = stage(tmp_path / "f")
        content = (tmp_path / "f" / name).read_bytes()
        (tmp_path / "f" / name).write_bytes(content[:-1] + b"?")
        assert finished.verify()
        assert finished.forget_damaged() == ["stage files"]
        assert open_stage(tmp_path / "f") is None
        assert list(done_units(tmp_path / "units")) == ["part-0", "part-1"]


def test_a_wrong_file_undoes_its_unit_and_the_stage(tmp_path: Path) -> None:
    finished = stage(tmp_path / "f")
    assert finished.forget_damaged() == []
    (tmp_path / "units" / "part-1.parquet").write_bytes(b"mory")
    assert finished.forget_damaged() == ["part-1"]
    assert open_stage(tmp_path / "f") is None
    assert list(done_units(tmp_path / "units")) == ["part-0"]


def test_a_stage_is_not_committed_without_its_identity_or_a_unit(tmp_path: Path) -> None:
    folder = tmp_path / "f"
    finished = stage(folder)
    units = [finished.table.record(at) for at in range(2)]
    (tmp_path / "units" / "part-1.json").unlink()
    with pytest.raises(UserError, match="part-1: vanished"):
        commit_stage(folder, finished.report, units, {}, RUN)
    (folder / IDENTITY_RECORD).unlink()
    with pytest.raises(UserError, match=r"identity\.json: vanished"):
        commit_stage(folder, finished.report, units[1:], {}, RUN)


def test_the_outputs_of_a_workspace_come_in_the_order_of_stages_and_age(tmp_path: Path) -> None:
    for age, (name, mark) in enumerate((("second", "a"), ("first", "b"), ("first", "a"))):
        folder = tmp_path / name / mark
        folder.mkdir(parents=True)
        stage(folder)
        os.utime(folder / IDENTITY_RECORD, (1e9 + age, 1e9 + age))
    (tmp_path / "first" / "a" / STAGE_RECORD).unlink()
    write_planned(tmp_path / "first" / "a", ["part-1", "part-0", "part-2"], ["part-0"])
    (tmp_path / "first" / "no output").mkdir()
    found = outputs(tmp_path, ["first", "second"])
    assert [output.name for output in found] == ["first/b", "first/a", "second/a"]
    assert [output.finished is not None for output in found] == [True, False, True]
    # Begun or finished, the parts of the units that are done are there.
    both = ["part-1.parquet", "part-0.parquet"]
    assert [[path.name for path in output.parts(".parquet")] for output in found] == [both, both[:1], both]


def test_rejects_are_those_of_the_stage_or_of_the_units_that_are_done(tmp_path: Path) -> None:
    folder = tmp_path / "f"
    for unit in ("part-0", "of another output"):
        commit(folder, unit, rejects=(REJECT,))
    commit(folder, "part-1")
    write_planned(folder, ["part-0", "part-1", "part-2"], ())
    assert rejects_of(folder) == [tmp_path / "units" / f"part-0{REJECTS_SUFFIX}"]
    (folder / "rejects.parquet").touch()
    assert rejects_of(folder) == [folder / "rejects.parquet"]


def test_an_output_of_an_earlier_version_is_named_with_what_to_do(tmp_path: Path) -> None:
    folder = tmp_path / "s" / "f"
    finished = stage(folder)
    path = folder / STAGE_RECORD
    path.write_text(json.dumps(json.loads(path.read_text()) | {"units": finished.units}))
    with pytest.raises(UserError, match=r"earlier version.* run the stage again, .* gc --yes"):
        open_stage(folder)
    old = json.loads((folder / IDENTITY_RECORD).read_text())
    del old["layout"]
    (folder / IDENTITY_RECORD).write_text(json.dumps(old))
    assert outputs(tmp_path, ["s"]) == []


@pytest.fixture
def finished(tmp_path: Path) -> StageFolder:
    """A finished stage of one unit and the files of a model."""
    folder = tmp_path / "stage" / "abc"
    write_record(folder / IDENTITY_RECORD, Identity("stage", 1, 0, {}, {}))
    unit = commit(folder, "part-0")
    for name in ("model/config.json", "model/weights"):
        write_bytes(folder / name, b"content")
    files = {name: FileFacts.of(folder / name) for name in ("model/config.json", "model/weights")}
    commit_stage(folder, merge([]), [unit], files, RUN)
    stage = open_stage(folder)
    assert stage is not None
    return stage


@pytest.mark.parametrize("damage", ["a flipped bit", "cut", "gone", "a folder"])
def test_a_reader_gets_no_file_that_differs_from_its_record(finished: StageFolder, damage: str) -> None:
    assert finished.parts(".parquet") == [units_of(finished.folder) / "part-0.parquet"]
    assert finished.file("model/weights").read_bytes() == b"content"
    assert finished.tree("model") == finished.folder / "model"
    for name in ("../units/part-0.parquet", "model/weights"):
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
    assert len(hashed) == 3  # and the list of units


def test_a_folder_that_the_record_does_not_name_is_refused(finished: StageFolder) -> None:
    with pytest.raises(UserError, match="names no folder 'other'"):
        finished.tree("other")
