"""Manifest rows of speech by id, mapped into memory: millions of them cost a process a few bytes each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from flowse.data.manifest import Split, Utterance
from flowse.data.parquet import read_columns, schema_of
from flowse.data.shuffle import hash64
from flowse.errors import DamagedFile
from flowse.files import atomic_path


class UtteranceTable:
    """The speech of one split of a manifest.

    Example:
        >>> table = UtteranceTable.open(parts, "train", folder / "speech")
        >>> table["demo/a"].path
    """

    def __init__(self, table: pa.Table, hashes: np.ndarray, order: np.ndarray) -> None:
        """Take a table, the sorted hashes of its ids, and the row of each hash."""
        self._table, self._hashes, self._order = table, hashes, order

    @classmethod
    def open(cls, parts: Sequence[Path], split: Split, path: Path) -> UtteranceTable:
        """Map the speech of a split; the first call, or one that finds them damaged, writes the files that are mapped.

        Args:
            parts: Manifest parts (`Utterance`).
            split: The split.
            path: What the names of the files begin with; it has to tell manifests apart.

        Raises:
            RowsError: A part cannot be read.
            DamagedFile: The disk does not keep what is written.
        """
        rows_path, ids_path = (path.with_name(f"{path.name}.{suffix}") for suffix in ("arrow", "ids.npy"))
        found = cls._mapped(rows_path, ids_path)
        if found is None:
            _write(parts, split, rows_path, ids_path)
            found = cls._mapped(rows_path, ids_path)
        if found is None:
            raise DamagedFile(f"{rows_path} cannot be read back as it was written; free the disk, and run again")
        return found

    @classmethod
    def _mapped(cls, rows_path: Path, ids_path: Path) -> UtteranceTable | None:
        """Map the files that an earlier call wrote; None: they are not there, or not whole."""
        try:
            with pa.memory_map(str(rows_path)) as file:
                table = pa.ipc.open_file(file).read_all()
            hashes, order = np.load(ids_path, mmap_mode="r")
        except (OSError, ValueError, EOFError, pa.ArrowException):
            return None
        return cls(table, hashes, order) if len(order) == table.num_rows else None

    def __len__(self) -> int:
        return len(self._order)

    def __getitem__(self, utt_id: str) -> Utterance:
        """Return the row of an id.

        Raises:
            KeyError: There is none.
        """
        place = int(np.searchsorted(self._hashes, np.uint64(hash64(utt_id))))
        while place < len(self._hashes) and self._hashes[place] == hash64(utt_id):
            row = self._table.slice(int(self._order[place]), 1).to_pylist()[0]
            if row["utt_id"] == utt_id:
                return Utterance(**row)
            place += 1
        raise KeyError(utt_id)


def _write(parts: Sequence[Path], split: Split, rows_path: Path, ids_path: Path) -> None:
    """Write the speech of a split and, sorted by their hashes, the places of its ids."""
    rows_path.parent.mkdir(parents=True, exist_ok=True)
    hashes = []
    with atomic_path(rows_path) as temporary, pa.ipc.new_file(str(temporary), schema_of(Utterance)) as writer:
        for part in parts:
            table = read_columns(part, Utterance, filters=[("kind", "==", "speech"), ("split", "==", split)])
            writer.write_table(table.cast(schema_of(Utterance)))
            hashes += [hash64(name) for name in table["utt_id"].to_pylist()]
    found = np.array(hashes, np.uint64)
    order = np.argsort(found, kind="stable").astype(np.uint64)
    with atomic_path(ids_path) as temporary, temporary.open("wb") as file:
        np.save(file, np.stack((found[order], order)))
