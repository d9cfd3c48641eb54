"""What is in the corpora, listed once and cut into units of work."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from flowse.data.manifest import Kind, Utterance
from flowse.data.parquet import write_rows
from pipelines.corpora import Refused
from pipelines.corpora.config import CorpusConfig
from pipelines.corpora.readers import reader_of
from pipelines.engine.accounts import Tally
from pipelines.engine.stage import Unit, batched


@dataclass(frozen=True, kw_only=True)
class Listing:
    """What a unit is called with: where its candidates are listed.

    Attributes:
        path: Parquet of Utterance rows as the corpus' reader gave them.
        repeated: Positions of rows whose id an earlier row has already.
        refused: Reason and detail of rows, by position, that the corpus marks as unfit.
    """

    path: Path
    repeated: tuple[int, ...]
    refused: Mapping[int, tuple[str, str]] = field(default_factory=dict)


def _id_hash(utt_id: str) -> int:
    """64 bits of an id: ten million of them fit into memory, ten million strings hardly."""
    return int.from_bytes(hashlib.blake2b(utt_id.encode(), digest_size=8).digest(), "big")


def list_units(
    corpora: Iterable[tuple[Kind, CorpusConfig]], roots: Mapping[str, Path], folder: Path, size: int, seed: int
) -> Iterator[Unit[Listing]]:
    """Write the candidates of every corpus to listings, a unit's worth each, and yield the units.

    Args:
        corpora: With what each holds.
        roots: Their folders, by name.
        folder: Where to write the listings.
        size: Candidates of a unit at most.
        seed: For corpora that are made.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for kind, corpus in corpora:
        reader, options = reader_of(corpus.reader, corpus.options, f"corpus {corpus.name!r}")
        seen: set[int] = set()
        rows = reader.read(roots[corpus.name], corpus.name, kind, options, seed)
        for number, part in enumerate(batched(rows, size)):
            repeated = []
            refused = {at: (row.reason, row.detail) for at, row in enumerate(part) if isinstance(row, Refused)}
            for position, row in enumerate(part):
                key = _id_hash(row.utt_id)
                if key in seen:
                    repeated.append(position)
                seen.add(key)
            name = f"{corpus.name}-{number:05d}"
            path = folder / f"{name}.parquet"
            write_rows(path, Utterance, part)
            yield Unit(name, Listing(path=path, repeated=tuple(repeated), refused=refused), Tally(len(part), 0.0))
