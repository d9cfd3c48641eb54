"""The leak check: whatever stands in two splits at once makes an evaluation worthless, so it is found first."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from flowse.data.manifest import SPLITS


@dataclass(frozen=True)
class Leak:
    """Something that stands in more than one split.

    Attributes:
        what: "speaker", "recording", "noise", "room".
        name: Which one.
        splits: Where it stands.
    """

    what: str
    name: str
    splits: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.what} {self.name!r} stands in {' and '.join(self.splits)}"


def _claims(path: Path, columns: Sequence[str]) -> Iterator[tuple[str, int]]:
    """Yield (name, number of its split) once for every pair in a file, leaving out the unnamed."""
    table = pq.read_table(path, columns=[*columns, "split"])
    pairs = table.group_by([*columns, "split"]).aggregate([])
    names = pc.binary_join_element_wise(*(pairs[column].cast(pa.string()) for column in columns), ":")
    for name, last, split in zip(
        names.to_pylist(), pairs[columns[-1]].to_pylist(), pairs["split"].to_pylist(), strict=True
    ):
        if last and split is not None:
            yield name, SPLITS.index(split)


def _hash(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big")


def find_leaks(paths: Sequence[Path], what: str, columns: Sequence[str], most: int = 10) -> list[Leak]:
    """Find what stands in more than one split, in memory of nine bytes a name.

    Args:
        paths: Parquet files with the named columns and `split`.
        what: What to call a finding.
        columns: Together they name it; a row where the last one is empty is left out.
        most: Name no more than this many.
    """
    hashes, splits = [], []
    for path in paths:
        claims = list(_claims(path, columns))
        hashes.append(np.array([_hash(name) for name, _ in claims], np.uint64))
        splits.append(np.array([split for _, split in claims], np.int8))
    if not hashes:
        return []
    everyone, where = np.concatenate(hashes), np.concatenate(splits)
    order = np.lexsort((where, everyone))
    everyone, where = everyone[order], where[order]
    shared = set(everyone[1:][(everyone[1:] == everyone[:-1]) & (where[1:] != where[:-1])].tolist())
    if not shared:
        return []
    named: dict[str, set[int]] = {}
    for path in paths:
        for name, split in _claims(path, columns):
            if _hash(name) in shared:
                named.setdefault(name, set()).add(split)
    return [Leak(what, name, tuple(SPLITS[split] for split in sorted(named[name]))) for name in sorted(named)[:most]]
