"""The leak check: it finds speakers, recordings and rooms that stand in two splits and would spoil an evaluation."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from flowse.data.manifest import SPLITS
from flowse.data.parquet import read_columns


@dataclass(frozen=True)
class Leak:
    """A speaker, recording, noise or room that stands in more than one split.

    Attributes:
        what: "speaker", "recording", "noise" or "room".
        name: Name of the speaker, recording, noise or room.
        splits: The splits in which it stands.
    """

    what: str
    name: str
    splits: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.what} {self.name!r} stands in {' and '.join(self.splits)}"


def _names_and_splits(path: Path, columns: Sequence[str], shown: str = "") -> Iterator[tuple[str, int, str]]:
    """Yield (name, index of the split, what is shown) of a file's rows once each; rows without a name are left out."""
    shown = shown or columns[-1]
    read = list(dict.fromkeys([*columns, shown, "split"]))
    pairs = read_columns(path, None, read).group_by(read).aggregate([])
    names = pc.binary_join_element_wise(*(pairs[column].cast(pa.string()) for column in columns), ":")
    values = (pairs[column].to_pylist() for column in (columns[-1], "split", shown))
    for name, last, split, about in zip(names.to_pylist(), *values, strict=True):
        if last and split is not None:
            yield name, SPLITS.index(split), about


def _hash(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big")


def find_leaks(paths: Sequence[Path], what: str, columns: Sequence[str], most: int = 10, shown: str = "") -> list[Leak]:
    """Find names that stand in more than one split; memory holds nine bytes for each name.

    Args:
        paths: Parquet files with `columns` and the column `split`.
        what: Kind of the findings: "speaker", "recording", "noise" or "room".
        columns: Columns that make up the name; a row whose last column is empty is left out.
        most: Return at most this many findings.
        shown: Column that findings are named by, where the name itself says nothing to people (a hash); of several rows
            the smallest value is taken. Empty: the name.
    """
    hashes, splits = [], []
    for path in paths:
        pairs = list(_names_and_splits(path, columns))
        hashes.append(np.array([_hash(name) for name, _, _ in pairs], np.uint64))
        splits.append(np.array([split for _, split, _ in pairs], np.int8))
    if not hashes:
        return []
    all_hashes, all_splits = np.concatenate(hashes), np.concatenate(splits)
    order = np.lexsort((all_splits, all_hashes))
    all_hashes, all_splits = all_hashes[order], all_splits[order]
    same_name = all_hashes[1:] == all_hashes[:-1]
    shared = set(all_hashes[1:][same_name & (all_splits[1:] != all_splits[:-1])].tolist())
    if not shared:
        return []
    splits_of: dict[str, set[int]] = {}
    shown_as: dict[str, str] = {}
    for path in paths:
        for name, split, about in _names_and_splits(path, columns, shown):
            if _hash(name) in shared:
                splits_of.setdefault(name, set()).add(split)
                if shown:
                    shown_as[name] = min(shown_as.get(name, about), about)
    return [
        Leak(what, shown_as.get(name, name), tuple(SPLITS[split] for split in sorted(splits_of[name])))
        for name in sorted(splits_of, key=lambda name: (shown_as.get(name, name), name))[:most]
    ]
