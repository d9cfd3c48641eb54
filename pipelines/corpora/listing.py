"""Lists the recordings of the corpora once, and cuts the list into units of work where its content says so."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from flowse.data.content import file_facts
from flowse.data.manifest import Kind, Utterance
from flowse.refusal import Refusal
from pipelines.corpora import MadeReader, Unfit, is_made_of_files
from pipelines.corpora.boundaries import content_batches
from pipelines.corpora.checked_rows import KnownFiles, KnownIds, rows_of
from pipelines.corpora.config import CorpusConfig
from pipelines.corpora.forgotten import NOTHING, ForgetList, anonymous, is_marked, marked
from pipelines.corpora.readers import reader_of
from pipelines.corpora.sorting import sorted_rows
from pipelines.engine.accounts import Tally
from pipelines.engine.stage import Unit

_FIELDS = tuple(field.name for field in dataclasses.fields(Utterance))
_SHOWN_DIGITS = 20


@dataclass(frozen=True, kw_only=True)
class Listing:
    """Payload of a unit: a file that lists recordings, and which of them are refused without a look at their audio.

    Attributes:
        path: Parquet of `Utterance` rows as the corpus' reader yields them.
        repeated: Positions of rows whose path and start an earlier row has.
        refused: Reason and detail of the rows that the corpus marks as unfit, by position.
        failed: Reason and detail of the rows that failed before they were read, by position.
    """

    path: Path
    repeated: tuple[int, ...]
    refused: Mapping[int, tuple[str, str]] = field(default_factory=dict)
    failed: Mapping[int, tuple[str, str]] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        """Number of rows."""
        import pyarrow.parquet as pq

        count: int = pq.read_metadata(self.path).num_rows
        return count

    def refuse(self, rows: Mapping[int, tuple[str, str]]) -> Listing:
        """Return the listing with some rows refused: they fail; see `pipelines.engine.stage.Divisible`."""
        return dataclasses.replace(self, failed={**self.failed, **rows})

    def check(self, position: int, row: Utterance) -> None:
        """Refuse a row that repeats an id, that its corpus marks as unfit, or that has failed.

        Raises:
            Refusal: With the corpus' own reason, or "duplicate_id"; or the row failed before.
        """
        if position in self.failed:
            raise Refusal.failed(*self.failed[position])
        if position in self.repeated:
            detail = f"{row.path}: an earlier row has the same path and start (id {row.utt_id}); remove one of them"
            raise Refusal("duplicate_id", detail)
        if position in self.refused:
            raise Refusal(*self.refused[position])


def list_units(
    corpora: Iterable[tuple[Kind, CorpusConfig]],
    roots: Mapping[str, Path],
    folder: Path,
    size: int,
    seed: int,
    forgotten: ForgetList = NOTHING,
) -> Iterator[Unit[Listing]]:
    """Write the rows of every corpus to listings, one for each unit, and yield the units.

    A unit holds rows of one corpus in the order of their paths. Its content is a hash of the rows, of the settings that
    reach them, and of the size and times of change of their files: a recording that is added, removed or replaced
    changes its own unit, and at most one beside it.

    Args:
        corpora: The corpora, each with the kind of its recordings.
        roots: Folder of each corpus, by name.
        folder: Where to write the listings.
        size: Mean number of rows of a unit.
        seed: For corpora that are made.
        forgotten: What is turned away, and stands in no listing by its name.
    """
    from flowse.data.parquet import write_rows

    folder.mkdir(parents=True, exist_ok=True)
    files = KnownFiles()
    for kind, corpus in corpora:
        ids = KnownIds()
        root = roots[corpus.name]
        reader, options = reader_of(corpus.reader, corpus.options, f"corpus {corpus.name!r}")
        made = isinstance(reader, MadeReader)
        sources = reader.listing_digest(root, options) if made and is_made_of_files(reader) else ""
        listed = rows_of(kind, corpus, root, seed, files, functools.partial(sorted_rows, folder=folder))
        rows: Iterator[tuple[Utterance, bool]] = map(ids.place, listed)
        if forgotten:
            rows = _without_forgotten(rows, root, forgotten, None if made else files)
        for placed in content_batches(rows, lambda placed: placed[0].path, size):
            part = [anonymous(row) if is_marked(row) else row for row, _ in placed]
            repeated = tuple(at for at, (row, again) in enumerate(placed) if again and not is_marked(row))
            unfit = {at: (row.reason, row.detail) for at, row in enumerate(part) if isinstance(row, Unfit)}
            settings = [kind, corpus.name, corpus.reader, corpus.split, corpus.licence, str(reader.LICENCE)]
            if made:  # the files are written by the options, not looked at
                settings.append(json.dumps(corpus.options, sort_keys=True, default=str))
            if sources:  # but for those that are copied out of others, of which any may have changed
                settings.append(sources)
            content = _content(settings, part, {*repeated, *unfit}, None if made else root)
            path = folder / f"{corpus.name}-{content[:_SHOWN_DIGITS]}.parquet"
            write_rows(path, Utterance, part)
            listing = Listing(path=path, repeated=repeated, refused=unfit)
            yield Unit(corpus.name, listing, Tally(len(part), 0.0), content, corpus.name)


def _without_forgotten(
    rows: Iterable[tuple[Utterance, bool]], root: Path, forgotten: ForgetList, files: KnownFiles | None
) -> Iterator[tuple[Utterance, bool]]:
    """Mark the rows that are forgotten: by their own names, or because a forgotten row has the same file.

    They keep their place in the list, so that no boundary between units moves.
    """
    for row, again in rows:
        known = row in forgotten
        if known and files is not None:
            files.forget(row, root)
        if known or (files is not None and files.is_forgotten(row, root)):
            yield marked(row), again
        else:
            yield row, again


def _content(settings: Sequence[str], rows: Sequence[Utterance], refused: set[int], root: Path | None) -> str:
    """Hash all that a unit is a function of.

    Args:
        settings: What the corpus' settings add to its rows.
        rows: The rows as they are listed.
        refused: Positions of rows that are refused; their files are not looked at.
        root: Folder of the files; None: they are made.
    """
    digest = hashlib.sha256(repr(settings).encode())
    path, facts = "", ""
    for position, row in enumerate(rows):
        values: list[object] = [getattr(row, name) for name in _FIELDS]
        if position in refused:
            values.append(("refused", getattr(row, "reason", ""), getattr(row, "detail", "")))
        elif root is not None:
            if row.path != path:
                path, facts = row.path, file_facts(root / row.path)
            values.append(facts)
        digest.update(f"{values!r}\n".encode("utf-8", "surrogatepass"))
    return digest.hexdigest()
