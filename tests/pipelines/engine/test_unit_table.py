"""Laws of tables of records: what goes in comes out, hidden units are told apart, another form is one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowse.errors import UserError
from pipelines.engine.accounts import StageReport, Tally
from pipelines.engine.records import FileFacts, UnitRecord
from pipelines.engine.unit_table import UnitTable


@st.composite
def records(draw: st.DrawFn) -> list[UnitRecord]:
    found = []
    for number in range(draw(st.integers(0, 5))):
        unit = f"part-{number}"
        suffixes = draw(st.lists(st.sampled_from([".parquet", ".tar", ".rejects.parquet"]), unique=True))
        files = {unit + suffix: FileFacts(draw(st.integers(0, 1 << 40)), f"{number:064x}") for suffix in suffixes}
        kept, dropped = (Tally(draw(st.integers(0, 9)), draw(st.floats(0, 1e6))) for _ in range(2))
        reasons = {"silent": dropped} if draw(st.booleans()) else {}
        report = StageReport(kept + dropped if reasons else kept, kept, reasons, metrics={"bytes": draw(st.integers())})
        found.append(UnitRecord(unit, files, report))
    return found


@given(records(), st.data())
def test_a_table_gives_back_the_records_in_their_order(listed: list[UnitRecord], data: st.DataObject) -> None:
    names = [record.unit for record in listed]
    hidden = set(data.draw(st.lists(st.sampled_from(names)))) if names else set()
    table = UnitTable(json.loads(UnitTable.of(listed, hidden).to_text()))
    assert table._fault() == ""
    assert [table.record(at) for at in range(len(table))] == listed
    assert {table.names[at] for at in table.hidden} == hidden
    assert table.file_names() == [name for record in listed for name in sorted(record.files)]
    for seen, names_seen in ((False, set(names) - hidden), (True, hidden)):
        facts = {f"{record.unit}.tar": record.files.get(f"{record.unit}.tar") for record in listed}
        expected = {unit: facts[f"{unit}.tar"] for unit in names if unit in names_seen and facts[f"{unit}.tar"]}
        assert dict(table.files(".tar", hidden=seen)) == expected


def test_a_table_that_is_absent_or_cut_is_none(tmp_path: Path) -> None:
    assert UnitTable.read(tmp_path / "x.json") is None
    (tmp_path / "x.json").write_text('{"units": ["a')
    assert UnitTable.read(tmp_path / "x.json") is None


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("units", ["../x"]),
        ("units", ["a\nb"]),
        ("units", []),
        ("suffixes", ["/etc"]),
        ("bytes", [True]),
        ("sha256", "ab"),
        ("suffix", [7]),
        ("hidden", [3]),
        ("counts", [2]),
        ("taken", [[], []]),
        ("new", 1),
    ],
)
def test_another_form_is_one_line_that_names_the_file(tmp_path: Path, key: str, value: Any) -> None:
    table = UnitTable.of([UnitRecord("a", {"a.tar": FileFacts(1, "0" * 64)}, StageReport(Tally(), Tally()))])
    path = tmp_path / "x.json"
    path.write_text(json.dumps(dict(table.columns) | {key: value}))
    with pytest.raises(
        UserError, match=r"x\.json: not a list of units that this version reads: .*delete the file"
    ) as caught:
        UnitTable.read(path)
    assert "\n" not in str(caught.value)
