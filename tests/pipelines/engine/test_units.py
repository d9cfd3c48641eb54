"""Laws of units: one is done from its record on, one listing says which are, and pages of records change nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from flowse.data.manifest import Reject
from flowse.data.parquet import read_rows
from flowse.errors import UserError
from pipelines.engine import units as units_module
from pipelines.engine.accounts import Tally, UnitReport
from pipelines.engine.records import REJECTS_SUFFIX, UnitRecord
from pipelines.engine.units import (
    PAGES,
    DoneUnits,
    UnitFolder,
    done_units,
    forget_units,
    label_of,
    read_pages,
    write_page,
)

REJECT = Reject(utt_id="c/x", corpus="c", stage="s", kind="dropped", reason="silent", duration_s=3.0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "units").mkdir()
    return tmp_path / "units"


def commit(folder: Path, unit: str, content: bytes = b"rows", rejects: tuple[Reject, ...] = ()) -> UnitRecord:
    output = UnitFolder(folder, unit)
    output.path(".parquet").write_bytes(content)
    taken = Tally(1 + len(rejects), 2.0 + sum(reject.duration_s for reject in rejects))
    return output.commit(taken, UnitReport(kept=Tally(1, 2.0), rejects=rejects, metrics={"bytes": 7}))


def test_a_unit_without_its_record_does_not_exist(folder: Path) -> None:
    output = UnitFolder(folder, "part-0")
    output.path(".parquet").write_bytes(b"half")
    assert done_units(folder) == {}
    assert not (folder / "part-0.parquet").exists()
    output.discard()
    assert list(folder.iterdir()) == []


def test_a_committed_unit_comes_back_with_its_books_and_rejects(folder: Path) -> None:
    committed = commit(folder, "part-0", rejects=(REJECT,))
    record = done_units(folder)["part-0"]
    assert record == committed
    assert (record.report.taken, record.report.kept) == (Tally(2, 5.0), Tally(1, 2.0))
    assert record.report.dropped == {"silent": Tally(1, 3.0)}
    assert list(read_rows(folder / f"part-0{REJECTS_SUFFIX}", Reject)) == [REJECT]


def test_a_unit_that_loses_an_utterance_is_refused(folder: Path) -> None:
    output = UnitFolder(folder, "part-0")
    with pytest.raises(ValueError, match="do not balance"):
        output.commit(Tally(2, 4.0), UnitReport(kept=Tally(1, 2.0)))
    assert done_units(folder) == {}


@pytest.mark.parametrize("harm", ["a file is lost", "the record is cut"])
def test_a_harmed_unit_is_not_done(folder: Path, harm: str) -> None:
    commit(folder, "part-0")
    if harm == "a file is lost":
        (folder / "part-0.parquet").unlink()
    else:
        record = folder / "part-0.json"
        record.write_text(record.read_text()[:20])
    assert done_units(folder) == {}


def test_other_json_files_are_no_units(folder: Path) -> None:
    commit(folder, "part-0")
    for name, text in (
        ("dataset", '{"digest": "d"}'),
        ("list", "[]"),
        ("copied", (folder / "part-0.json").read_text()),
    ):
        (folder / f"{name}.json").write_text(text)
    assert list(done_units(folder)) == ["part-0"]


def test_a_record_of_another_form_is_named(folder: Path) -> None:
    (folder / "part-0.json").write_text('{"unit": "part-0", "files": {}}')
    with pytest.raises(UserError, match=r"part-0\.json: .* books is missing; .* the unit is done again"):
        done_units(folder)


def test_what_stands_in_a_page_is_read_from_there_and_is_the_same(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = [commit(folder, f"part-{number}", rejects=(REJECT,) * (number % 2)) for number in range(5)]
    before = done_units(folder)
    write_page(folder, records[:4])
    read = []
    own = units_module.read_unit
    monkeypatch.setattr(units_module, "read_unit", lambda where, unit: read.append(unit) or own(where, unit))
    assert done_units(folder) == before
    assert read == ["part-4"]


def test_pages_are_filled_up_and_hold_a_thousand_at_most(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(units_module, "PAGE_UNITS", 3)
    records = [commit(folder, f"part-{number}") for number in range(5)]
    for record in records:
        write_page(folder, [record])
    write_page(folder, [])
    assert sorted(path.name for path in (folder.parent / PAGES).iterdir()) == ["000001.json", "000002.json"]
    assert list(read_pages(folder, {record.unit for record in records}).values()) == records


def test_a_page_alone_makes_no_unit_done(folder: Path) -> None:
    write_page(folder, [commit(folder, "part-0")])
    (folder / "part-0.json").unlink()
    assert done_units(folder) == {}


def test_a_forgotten_unit_that_is_made_anew_is_not_taken_for_the_old_one(folder: Path) -> None:
    write_page(folder, [commit(folder, f"part-{number}") for number in range(2)])
    forget_units(folder, ["part-0"])
    assert list(done_units(folder)) == ["part-1"]
    anew = commit(folder, "part-0", content=b"other rows")
    assert done_units(folder)["part-0"] == anew


def test_temporary_files_of_killed_processes_are_removed_and_nothing_else(folder: Path) -> None:
    commit(folder, "part-0")
    UnitFolder(folder, "part-1").path(".tar").write_bytes(b"half")
    before = DoneUnits(folder)
    before.remove_temporaries()
    assert sorted(path.name for path in folder.iterdir()) == ["part-0.json", "part-0.parquet"]


@pytest.mark.parametrize(
    ("unit", "label"),
    [("demo-speech-0123456789abcdef0123", "demo-speech"), ("part-0", "part-0"), ("x", "x")],
)
def test_the_label_is_the_name_without_its_key(unit: str, label: str) -> None:
    assert label_of(unit) == label
