"""Puts the rows of a corpus in an order that no reader decides: by path and start, in bounded memory."""

from __future__ import annotations

import heapq
import pickle
import tempfile
from collections.abc import Iterable, Iterator
from itertools import groupby, islice
from pathlib import Path

from flowse.data.manifest import Utterance

HELD_ROWS = 100_000
"""Rows that are sorted in memory, about 100 MB; further ones pass through files."""
_BLOCK_ROWS = 512


def sorted_rows(rows: Iterable[Utterance], folder: Path, held: int = HELD_ROWS) -> Iterator[Utterance]:
    """Yield rows by path and start; rows of the same path and start by what else they say.

    The order is a function of the rows alone: a table whose lines were moved, or files that another file system lists
    in another order, give the same rows in the same order. It is an external merge sort.

    Args:
        rows: The rows, in any order.
        folder: Where a temporary folder for rows that do not fit into memory is made.
        held: So many rows are in memory at once.
    """
    coming = iter(rows)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".sort-") as scratch:
        runs: list[Iterator[Utterance]] = []
        while len(run := sorted(islice(coming, held), key=_place)) == held:
            path = Path(scratch) / str(len(runs))
            _write(path, run)
            runs.append(_read(path))
        for _, same in groupby(heapq.merge(*runs, run, key=_place), key=_place):
            first, *others = same
            yield from sorted([first, *others], key=repr) if others else (first,)


def _place(row: Utterance) -> tuple[str, float]:
    return row.path, row.offset_s


def _write(path: Path, rows: list[Utterance]) -> None:
    with path.open("wb") as file:
        for begin in range(0, len(rows), _BLOCK_ROWS):
            pickle.dump(rows[begin : begin + _BLOCK_ROWS], file, pickle.HIGHEST_PROTOCOL)


def _read(path: Path) -> Iterator[Utterance]:
    with path.open("rb") as file:
        while file.peek(1):
            yield from pickle.load(file)
