"""Lists the recordings of the corpora once, and cuts the list into units of work."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from flowse.data.manifest import Kind, Utterance
from flowse.refusal import Refusal
from pipelines.corpora import Unfit
from pipelines.corpora.config import CorpusConfig
from pipelines.corpora.readers import reader_of
from pipelines.engine.accounts import Tally
from pipelines.engine.stage import Unit, batched


@dataclass(frozen=True, kw_only=True)
class Listing:
    """Payload of a unit: a file that lists recordings, and which of them are refused without a look at their audio.

    Attributes:
        path: Parquet of `Utterance` rows as the corpus' reader yields them.
        repeated: Positions of rows whose id an earlier row has.
        refused: Reason and detail of the rows that the corpus marks as unfit, by position.
    """

    path: Path
    repeated: tuple[int, ...]
    refused: Mapping[int, tuple[str, str]] = field(default_factory=dict)

    def check(self, position: int, row: Utterance) -> None:
        """Refuse a row that repeats an id or that its corpus marks as unfit.

        Raises:
            Refusal: With the corpus' own reason, or "duplicate_id".
        """
        if position in self.repeated:
            raise Refusal("duplicate_id", f"{row.path}: another file has the id {row.utt_id}; rename one of them")
        if position in self.refused:
            raise Refusal(*self.refused[position])


def _id_hash(utt_id: str) -> int:
    """Return 64 bits of an id: ten million of them fit into memory, ten million strings would not."""
    return int.from_bytes(hashlib.blake2b(utt_id.encode(), digest_size=8).digest(), "big")


def list_units(
    corpora: Iterable[tuple[Kind, CorpusConfig]], roots: Mapping[str, Path], folder: Path, size: int, seed: int
) -> Iterator[Unit[Listing]]:
    """Write the rows of every corpus to listings, one for each unit, and yield the units.

    Args:
        corpora: The corpora, each with the kind of its recordings.
        roots: Folder of each corpus, by name.
        folder: Where to write the listings.
        size: Most rows of a unit.
        seed: For corpora that are made.
    """
    from flowse.data.parquet import write_rows

    folder.mkdir(parents=True, exist_ok=True)
    for kind, corpus in corpora:
        reader, options = reader_of(corpus.reader, corpus.options, f"corpus {corpus.name!r}")
        seen: set[int] = set()
        rows = reader.read(roots[corpus.name], corpus.name, kind, options, seed)
        for number, part in enumerate(batched(rows, size)):
            repeated = []
            unfit = {at: (row.reason, row.detail) for at, row in enumerate(part) if isinstance(row, Unfit)}
            for position, row in enumerate(part):
                key = _id_hash(row.utt_id)
                if key in seen:
                    repeated.append(position)
                seen.add(key)
            name = f"{corpus.name}-{number:05d}"
            path = folder / f"{name}.parquet"
            write_rows(path, Utterance, part)
            yield Unit(name, Listing(path=path, repeated=tuple(repeated), refused=unfit), Tally(len(part), 0.0))
