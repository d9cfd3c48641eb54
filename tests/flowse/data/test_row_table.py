"""Laws of the index by column: the rows of the index in order of their keys, whether they are mapped or in memory."""

import dataclasses
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flowse.data.parquet import RowsError, schema_of
from flowse.data.row_table import RowTable, codes_of, column_of, texts_of
from flowse.data.shards import IndexRow, read_index, write_index


def row(number: int, split: str = "train") -> IndexRow:
    values = {field.name: (field.type in ("int", int) and number) or 0 for field in dataclasses.fields(IndexRow)}
    texts = {name: f"{name}-{number % 3}" for name in schema_of(IndexRow).names if _is_text(name)}
    floats = {"seconds": number / 7, "snr_db": 1.5, "tokens": (number % 7, 1, 2)}
    return IndexRow(**{**values, **texts, **floats, "key": f"k{number * 7919 % 1000:04d}", "split": split})  # type: ignore[arg-type]


def _is_text(name: str) -> bool:
    return bool(pa.types.is_string(schema_of(IndexRow).field(name).type))


@pytest.fixture
def index(tmp_path: Path) -> Path:
    """An index of 300 rows, not in order of their keys; every fifth is of split dev."""
    write_index(
        tmp_path / "index.parquet", [row(number, "dev" if number % 5 == 0 else "train") for number in range(300)]
    )
    return tmp_path / "index.parquet"


def expected(index: Path, split: str = "train") -> list[IndexRow]:
    return sorted(read_index(index, split), key=lambda row: row.key)  # type: ignore[arg-type]


def test_rows_are_those_of_the_index_in_order_of_their_keys(index: Path, tmp_path: Path) -> None:
    for rows in (RowTable.read(index, "train"), RowTable.open(index, "train", tmp_path / "cache")):
        assert list(rows) == expected(index)
        assert len(rows) == 240
        assert rows[-1] == expected(index)[-1]
        assert rows[3:5] == expected(index)[3:5]
        with pytest.raises(IndexError):
            rows[240]


def test_small_batches_change_nothing(index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flowse.data.row_table._BATCH_ROWS", 7)
    table = pq.read_table(index)
    pq.write_table(table, index, row_group_size=50)
    rows = RowTable.open(index, "train", tmp_path / "cache")
    assert list(rows) == expected(index)
    assert rows.texts("key", np.array([0, 5])) == [expected(index)[0].key, expected(index)[5].key]


def test_columns_of_a_table_and_of_objects_are_equal(index: Path) -> None:
    table, objects = RowTable.read(index, "train"), expected(index)
    assert column_of(table, "clean_offset").tolist() == column_of(objects, "clean_offset").tolist()
    assert table.samples.tolist() == [row.samples for row in objects]
    for rows in (table, objects):
        names, codes = codes_of(rows, "shard")
        assert [names[code] for code in codes] == [row.shard for row in objects]
        assert names == sorted(names)
        assert texts_of(rows, "key", np.array([4, 2])) == [objects[4].key, objects[2].key]


def test_the_mapped_file_is_written_once_and_those_of_other_indexes_are_deleted(index: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    RowTable.open(index, "train", cache)
    (path,) = cache.glob("train-*.arrow")
    begun = path.stat().st_mtime_ns
    RowTable.open(index, "train", cache)
    RowTable.open(index, "dev", cache)
    assert path.stat().st_mtime_ns == begun
    write_index(index, [row(1)])
    assert [found.key for found in RowTable.open(index, "train", cache)] == [row(1).key]
    assert not path.exists()
    assert len(list(cache.glob("dev-*.arrow"))) == 1


@pytest.mark.parametrize("damage", ["empty", "cut", "garbage", "gone"])
@pytest.mark.parametrize("suffix", [".arrow", ".npy"])
def test_a_mapped_file_that_is_damaged_is_written_anew(index: Path, tmp_path: Path, suffix: str, damage: str) -> None:
    cache = tmp_path / "cache"
    whole = list(RowTable.open(index, "train", cache))
    for path in cache.glob(f"train-*{suffix}"):
        content = {"empty": b"", "cut": path.read_bytes()[:-9], "garbage": b"\x93no such thing" * 40}.get(damage)
        path.unlink()
        if content is not None:
            path.write_bytes(content)
    assert list(RowTable.open(index, "train", cache)) == whole


def test_a_split_without_rows_is_empty(index: Path, tmp_path: Path) -> None:
    for rows in (RowTable.read(index, "test"), RowTable.open(index, "test", tmp_path / "cache")):
        assert list(rows) == []
        assert rows.samples.tolist() == []
        assert rows.codes("shard")[0] == []


def test_what_is_no_index_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "index.parquet"
    path.write_bytes(b"PAR1 nothing")
    with pytest.raises(RowsError, match=r"index\.parquet"):
        RowTable.open(path, "train", tmp_path / "cache")
    pq.write_table(pa.table({"key": ["a"]}), path)
    with pytest.raises(RowsError, match="missing"):
        RowTable.open(path, "train", tmp_path / "cache")
