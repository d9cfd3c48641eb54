"""Laws of parquet rows: rows come back as they were, equal rows give equal bytes, memory is bounded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flowse.data.manifest import Kind, Utterance
from flowse.data.parquet import RowsError, durations_s, read_columns, read_rows, write_rows

ROWS = [
    Utterance(utt_id="c/a-wav", corpus="c", kind="speech", path="a.wav", duration_s=1.5, split="train", text="你好"),
    Utterance(utt_id="c/b-wav", corpus="c", kind="noise", path="b.wav", language_prob=0.25),
]


def test_rows_come_back_as_they_were(tmp_path: Path) -> None:
    write_rows(tmp_path / "part.parquet", Utterance, ROWS)
    assert list(read_rows(tmp_path / "part.parquet", Utterance)) == ROWS


def test_a_file_without_rows_can_be_read(tmp_path: Path) -> None:
    write_rows(tmp_path / "part.parquet", Utterance, [])
    assert list(read_rows([tmp_path / "part.parquet"] * 2, Utterance)) == []


def test_the_same_rows_are_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_rows(tmp_path / name, Utterance, iter(ROWS))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_long_list_is_written_in_groups_and_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flowse.data.parquet._GROUP_ROWS", 2)
    for count in range(6):
        rows = (ROWS * 5)[:count]
        write_rows(tmp_path / "part.parquet", Utterance, iter(rows))
        assert list(read_rows(tmp_path / "part.parquet", Utterance)) == rows
        with pq.ParquetFile(tmp_path / "part.parquet") as file:
            assert file.num_row_groups == max(1, -(-count // 2))


def test_a_missing_column_is_named_with_its_file(tmp_path: Path) -> None:
    write_rows(tmp_path / "part.parquet", Utterance, ROWS)
    table = pq.read_table(tmp_path / "part.parquet").drop_columns(["speaker"])
    pq.write_table(table, tmp_path / "old.parquet")
    with pytest.raises(ValueError, match=r"old\.parquet: column\(s\) speaker missing"):
        list(read_rows(tmp_path / "old.parquet", Utterance))


def test_lengths_are_read_alone_and_by_kind(tmp_path: Path) -> None:
    kinds: tuple[Kind, ...] = ("speech", "noise", "speech")
    rows = [replace(ROWS[0], kind=kind, duration_s=float(n)) for n, kind in enumerate(kinds, start=1)]
    write_rows(tmp_path / "part.parquet", Utterance, rows)
    assert durations_s(tmp_path / "part.parquet") == [1, 2, 3]
    assert durations_s(tmp_path / "part.parquet", "speech") == [1, 3]
    assert durations_s(tmp_path / "part.parquet", "rir") == []


def _retyped(table: pa.Table) -> pa.Table:
    return table.set_column(table.column_names.index("duration_s"), "duration_s", pa.array(["a"] * len(table)))


def _emptied(table: pa.Table) -> pa.Table:
    return table.set_column(table.column_names.index("path"), "path", pa.nulls(len(table), pa.string()))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda table: table.remove_column(0), "utt_id missing"),
        (lambda table: table.append_column("path", table["path"]), "path is there 2 times"),
        (_retyped, "duration_s holds string, not double"),
        (_emptied, "path has an empty cell"),
    ],
)
def test_other_columns_than_those_of_the_rows_are_refused_by_name(tmp_path: Path, change: Any, said: str) -> None:
    path = tmp_path / "part.parquet"
    write_rows(path, Utterance, ROWS)
    pq.write_table(change(pq.read_table(path)), path)
    for read in (lambda: list(read_rows(path, Utterance)), lambda: read_columns(path, Utterance)):
        with pytest.raises(RowsError, match=f"{path}: .*{said}"):
            read()


@pytest.mark.parametrize(
    "damage",
    [lambda whole: b"", lambda whole: whole[:-30], lambda whole: whole.replace(b"c/", b"\xff\xff")],
)
def test_a_damaged_file_is_one_line_that_names_it(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "part.parquet"
    pq.write_table(pq.read_table(_written(tmp_path / "whole.parquet")), path, compression="none", use_dictionary=False)
    path.write_bytes(damage(path.read_bytes()))
    for read in (lambda: list(read_rows(path, Utterance)), lambda: read_columns(path, None, ["utt_id"])):
        with pytest.raises(RowsError, match=f"{path}: ") as caught:
            read()
        assert "\n" not in str(caught.value)


def _written(path: Path) -> Path:
    write_rows(path, Utterance, ROWS)
    return path
