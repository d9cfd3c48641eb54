"""Lists the recordings of the corpora once, and cuts the list into units of work."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from flowse.data.manifest import Kind, Utterance
from flowse.refusal import Refusal
from pipelines.corpora import Unfit
from pipelines.corpora.checked_rows import KnownFiles, KnownIds, rows_of
from pipelines.corpora.config import CorpusConfig
from pipelines.corpora.sorting import sorted_rows
from pipelines.engine.accounts import Tally
from pipelines.engine.fingerprint import content_of
from pipelines.engine.stage import Unit, batched


@dataclass(frozen=True, kw_only=True)
class Listing:
    """Payload of a unit: a file that lists recordings, and which of them are refused without a look at their audio.

    Attributes:
        path: Parquet of `Utterance` rows as the corpus' reader yields them.
        repeated: Positions of rows whose path and start an earlier row has.
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
            detail = f"{row.path}: an earlier row has the same path and start (id {row.utt_id}); remove one of them"
            raise Refusal("duplicate_id", detail)
        if position in self.refused:
            raise Refusal(*self.refused[position])


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
    files = KnownFiles()
    for kind, corpus in corpora:
        ids = KnownIds()
        listed = rows_of(kind, corpus, roots[corpus.name], seed, files, functools.partial(sorted_rows, folder=folder))
        rows = map(ids.place, listed)
        for number, placed in enumerate(batched(rows, size)):
            part = [row for row, _ in placed]
            repeated = [position for position, (_, again) in enumerate(placed) if again]
            unfit = {at: (row.reason, row.detail) for at, row in enumerate(part) if isinstance(row, Unfit)}
            path = folder / f"{corpus.name}-{number:05d}.parquet"
            write_rows(path, Utterance, part)
            facts = [_facts_of(roots[corpus.name] / row.path) for row in part]
            content = content_of(kind, dataclasses.replace(corpus, root=""), part, repeated, unfit, facts)
            listing = Listing(path=path, repeated=tuple(repeated), refused=unfit)
            yield Unit(corpus.name, listing, Tally(len(part), 0.0), content, corpus.name)


def _facts_of(path: Path) -> tuple[int, int]:
    """Return size and time of change, in ns, of a recording; (−1, 0) if it is not there."""
    try:
        status = path.stat()
    except OSError:
        return -1, 0
    return status.st_size, status.st_mtime_ns
