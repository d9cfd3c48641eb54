"""Index rows by column, mapped into memory: millions of rows cost a rank tens of bytes each, and no object."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from flowse.data.manifest import SPLITS, Split
from flowse.data.parquet import read_columns, read_group, readable, schema_of
from flowse.data.shards import IndexRow
from flowse.errors import DamagedFile
from flowse.files import atomic_path, sha256_file

_BATCH_ROWS = 65_536


class RowTable(Sequence[IndexRow]):
    """The index rows of one split, ordered by key; a row becomes an object when it is asked for.

    Example:
        >>> rows = RowTable.open(folder / "index.parquet", "train", cache)
        >>> rows[0].key, rows.samples.sum()
    """

    def __init__(self, table: pa.Table, order: np.ndarray) -> None:
        """Take a table and the order of its rows.

        Args:
            table: Columns of `IndexRow`; may be mapped into memory.
            order: Position in the table of each row.
        """
        self._table, self._order = table, order
        self._batches = table.to_batches()
        self._columns = [batch.columns for batch in self._batches]  # asking a batch for them takes most of a row's time
        self._ends = np.cumsum([batch.num_rows for batch in self._batches])

    @classmethod
    def read(cls, index: Path, split: Split) -> RowTable:
        """Read a split of an index into memory: for datasets that fit, about 300 bytes a row.

        Raises:
            RowsError: The index cannot be read.
        """
        table = read_columns(index, IndexRow, filters=[("split", "==", split)])
        return cls(table, _by_key(table))

    @classmethod
    def open(cls, index: Path, split: Split, cache: Path) -> RowTable:
        """Map a split of an index into memory; the first call writes the files that are mapped, for all splits.

        Args:
            index: Parquet file of the index.
            split: The split.
            cache: Folder for the files that are mapped; all ranks of a node may share it. Those of other indexes are
                deleted.

        Raises:
            RowsError: The index cannot be read.
            DamagedFile: The disk does not keep what is written.
        """
        digest = sha256_file(index)[:16]
        path, order_path = cache / f"{split}-{digest}.arrow", cache / f"{split}-{digest}.order.npy"
        found = cls._mapped(path, order_path)
        if found is None:
            _write_splits(index, cache, digest)
            found = cls._mapped(path, order_path)
        if found is None:
            raise DamagedFile(f"{path} cannot be read back as it was written; free the disk of {cache}, and run again")
        return found

    @classmethod
    def _mapped(cls, path: Path, order_path: Path) -> RowTable | None:
        """Map the files that an earlier call wrote; None: they are not there, or not whole."""
        try:
            table, order = _mapped(path), np.load(order_path, mmap_mode="r")
        except (OSError, ValueError, EOFError, pa.ArrowException):
            return None
        return cls(table, order) if order.shape == (table.num_rows,) else None

    def __len__(self) -> int:
        return len(self._order)

    @overload
    def __getitem__(self, index: int) -> IndexRow: ...
    @overload
    def __getitem__(self, index: slice) -> list[IndexRow]: ...
    def __getitem__(self, index: int | slice) -> IndexRow | list[IndexRow]:
        """Return a row, or a list of rows."""
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        place = int(self._order[index])
        number = int(np.searchsorted(self._ends, place, side="right"))
        within = place - (int(self._ends[number - 1]) if number else 0)
        columns = zip(self._table.column_names, self._columns[number], strict=True)
        values = {name: column[within].as_py() for name, column in columns}
        return IndexRow(**{**values, "tokens": tuple(values["tokens"])})

    @property
    def samples(self) -> np.ndarray:
        """Length of every row, in samples."""
        return self.column("samples")

    def column(self, name: str) -> np.ndarray:
        """Return a column of numbers, in the order of the rows."""
        values: np.ndarray = self._table.column(name).to_numpy()[self._order]
        return values

    def codes(self, name: str) -> tuple[list[str], np.ndarray]:
        """Return the different texts of a column, sorted, and the number of each row's among them."""
        encoded = pc.dictionary_encode(self._table.column(name)).combine_chunks()
        if isinstance(encoded, pa.ChunkedArray):
            encoded = encoded.chunk(0) if encoded.num_chunks else pa.array([], pa.dictionary(pa.int32(), pa.string()))
        names = encoded.dictionary.to_pylist()
        sorted_names = sorted(names)
        number = {text: place for place, text in enumerate(sorted_names)}
        ranks = np.array([number[text] for text in names], np.int32)
        return sorted_names, ranks[encoded.indices.to_numpy()[self._order]] if names else np.zeros(0, np.int32)

    def texts(self, name: str, rows: np.ndarray | None = None) -> list[str]:
        """Return a column of texts, of all rows in no order, or of some."""
        column = self._table.column(name)
        values: list[str] = (column if rows is None else column.take(pa.array(self._order[rows]))).to_pylist()
        return values

    def are(self, name: str, text: str) -> np.ndarray:
        """Return of each row whether a column of texts has this text."""
        values: np.ndarray = pc.equal(self._table.column(name), text).to_numpy()[self._order]
        return values

    def text_batches(self, rows: np.ndarray) -> Iterator[tuple[list[str], list[str]]]:
        """Yield texts and languages of some rows, some at a time."""
        for begin in range(0, len(rows), _BATCH_ROWS):
            places = pa.array(np.sort(self._order[rows[begin : begin + _BATCH_ROWS]]))
            yield tuple(self._table.column(name).take(places).to_pylist() for name in ("text", "language"))


def column_of(rows: Sequence[IndexRow], name: str) -> np.ndarray:
    """Return a column of numbers of rows, whether they are a table or objects."""
    if isinstance(rows, RowTable):
        return rows.column(name)
    return np.array([getattr(row, name) for row in rows], np.int64)


def codes_of(rows: Sequence[IndexRow], name: str) -> tuple[list[str], np.ndarray]:
    """Return the different texts of a column, sorted, and each row's number among them."""
    if isinstance(rows, RowTable):
        return rows.codes(name)
    names, codes = np.unique(np.array([getattr(row, name) for row in rows], object), return_inverse=True)
    return names.tolist(), codes.astype(np.int32)


def texts_of(rows: Sequence[IndexRow], name: str, chosen: np.ndarray) -> list[str]:
    """Return the texts of a column in chosen rows."""
    if isinstance(rows, RowTable):
        return rows.texts(name, chosen)
    return [getattr(rows[index], name) for index in chosen.tolist()]


def _mapped(path: Path) -> pa.Table:
    with pa.memory_map(str(path)) as file:
        return pa.ipc.open_file(file).read_all()


def _by_key(table: pa.Table) -> np.ndarray:
    order: np.ndarray = pc.sort_indices(table.column("key")).to_numpy().astype(np.uint32)
    return order


def _write_splits(index: Path, cache: Path, digest: str) -> None:
    """Copy the rows of each split into a file that can be mapped, some at a time, and write their order beside it."""
    schema = schema_of(IndexRow)
    paths = {split: cache / f"{split}-{digest}.arrow" for split in SPLITS}
    with contextlib.ExitStack() as files:
        temporaries = {split: files.enter_context(atomic_path(path)) for split, path in paths.items()}
        writers = {
            split: files.enter_context(pa.ipc.new_file(str(path), schema)) for split, path in temporaries.items()
        }
        with readable(index):
            source = files.enter_context(pq.ParquetFile(index))
        for group in range(source.num_row_groups):
            rows = read_group(index, source, group, IndexRow)
            for split, writer in writers.items():
                mine = pc.equal(rows.column("split"), split)
                count = pc.sum(mine).as_py() or 0
                # A shard holds one split, and so does, as a rule, a group of rows: no copy is needed.
                part = rows if count == rows.num_rows else rows.filter(mine)
                for batch in part.to_batches(_BATCH_ROWS) if count else ():
                    writer.write_batch(batch)
    for split, path in paths.items():
        # The file of the order is written last: it says that both are there.
        with atomic_path(path.with_suffix(".order.npy")) as temporary, temporary.open("wb") as file:
            np.save(file, _by_key(_mapped(path)))
        for other in cache.glob(f"{split}-*"):
            if not other.name.startswith(f"{split}-{digest}"):
                other.unlink(missing_ok=True)
