"""A corpus in an experiment's config, and the folder of its recordings."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from flowse.data.manifest import SPLITS, Kind, Utterance
from flowse.errors import UserError
from flowse.names import readable
from flowse.outside import Outside, is_url, place_of
from pipelines.corpora import MadeReader, Reader, is_made_of_files
from pipelines.corpora.readers import READERS, reader_of, refuse_shared
from pipelines.engine.remote_tree import is_in_store, tree_at, tree_of
from pipelines.engine.store import why_no_store

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


def _proposal(name: str) -> str:
    proposed = re.sub(r"[^A-Za-z0-9_-]+", "-", str(name)).strip("-_")[:64]
    return f", such as {proposed!r}" if proposed else ""


@dataclass(frozen=True, kw_only=True)
class CorpusConfig:
    """One corpus of an experiment.

    Attributes:
        name: Name of the corpus, unique in the experiment also without regard to case: letters, digits, _ and -, at
            most 64 of them. It becomes part of every utterance id and of file names.
        reader: Module of `pipelines/corpora/` that reads the corpus.
        root: Folder of the recordings, or a store, `s3://bucket/prefix`; a corpus that is made needs none. The
            fingerprint holds the digest of what is in it, not its path. `cluster.data` says where `data/` is.
        split: Split of the whole corpus; empty: ingest chooses by the speaker.
        licence: Licence of rows that state none; empty: the licence that the reader knows.
        options: Settings of the reader.
    """

    name: str
    reader: str = "folder"
    root: str = field(default="", metadata={"fingerprint": False, "data": True})
    split: str = ""
    licence: str = ""
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            shown = readable(str(self.name)[:80])
            raise ValueError(
                f"name: {shown!r} cannot name a corpus; use 1 to 64 letters (a-z, A-Z), digits, _ and -, the first of "
                f"which is no sign{_proposal(self.name)}"
            )
        if self.reader not in READERS:
            raise ValueError(f"reader: {self.reader!r} is not one of {', '.join(sorted(READERS))}")
        if self.split not in ("", *SPLITS):
            raise ValueError(f"split: {self.split!r} is not one of {', '.join(SPLITS)} or empty")

    def licence_of(self, row: Utterance) -> str:
        """Return the licence of a row: what the row states, else this config, else the reader."""
        return row.licence or self.licence or str(READERS[self.reader].LICENCE)


def refuse_repeated(corpora: Iterable[CorpusConfig]) -> None:
    """Refuse two corpora whose names are the same, or differ only in case: ids hold names in lower case.

    Raises:
        ValueError: Naming the repeated names.
    """
    names = [corpus.name for corpus in corpora]
    lower = [name.lower() for name in names]
    repeated = sorted({name for name in names if lower.count(name.lower()) > 1})
    if repeated:
        raise ValueError(
            f"corpus names repeat: {', '.join(repeated)}; every corpus needs a name of its own (case does not count)"
        )


def outside_of(corpora: Iterable[CorpusConfig]) -> dict[str, Outside]:
    """Return each corpus' folder, by name; new or changed files in it rerun the stage that reads the corpora."""
    found = {}
    for corpus in corpora:
        reader, options = reader_of(corpus.reader, corpus.options, f"corpus {corpus.name!r}")
        root = _place(corpus)
        where = corpus.root if is_in_store(corpus.root) else str(root.absolute())
        place = json.dumps(["corpus", corpus.reader, where, corpus.options], sort_keys=True, default=str)
        digest = partial(_look, corpus.name, root, reader, options)
        found[corpus.name] = Outside(
            place, digest, is_cheap=isinstance(reader, MadeReader) and not is_made_of_files(reader)
        )
    return found


def _place(corpus: CorpusConfig) -> Path:
    """Return the folder of a corpus; of one in a store, that of its names on this machine.

    Raises:
        UserError: There is no such home folder, or the root is another URL.
    """
    if is_in_store(corpus.root):
        if isinstance(READERS[corpus.reader], MadeReader):
            raise UserError(
                f"root of corpus {corpus.name!r}: {corpus.root} is a store, and reader {corpus.reader!r} makes its "
                "recordings itself; leave `root` out"
            )
        try:
            return tree_at(corpus.root.strip()).root
        except UserError as error:
            raise UserError(f"root of corpus {corpus.name!r}: {error}") from None
    if is_url(corpus.root):
        raise UserError(f"root of corpus {corpus.name!r}: {corpus.root}: {why_no_store(corpus.root)}")
    return place_of(corpus.root, f"root of corpus {corpus.name!r}")


def _look(name: str, root: Path, reader: Reader, options: Any) -> str:
    """Return the hash of what a corpus holds; one in a store is listed now."""
    if tree := tree_of(root):
        tree.listed(f"root of corpus {name!r}")
    return reader.listing_digest(root, options)


def roots_of(corpora: Iterable[tuple[Kind, CorpusConfig]], made: Path) -> dict[str, Path]:
    """Return the folder of every corpus, by name.

    Args:
        corpora: The corpora, each with the kind of its recordings.
        made: Folder below which corpora that are made and name no root get theirs, named by their options.

    Raises:
        UserError: A corpus that is not made has no root, or two corpora hold the same recordings.
    """
    roots = {}
    listed = []
    for kind, corpus in corpora:
        reader, options = reader_of(corpus.reader, corpus.options, f"corpus {corpus.name!r}")
        named = _place(corpus)
        if isinstance(reader, MadeReader):
            default = made / f"{corpus.name}-{reader.listing_digest(Path(), options)[:12]}"
            roots[corpus.name] = named.resolve() if corpus.root else default
        elif corpus.root:
            roots[corpus.name] = named.resolve()
        else:
            raise UserError(f"corpus {corpus.name!r}: `root` is missing; say in the experiment's config where it lies")
        listed.append((kind, corpus.name, reader, options, roots[corpus.name]))
    refuse_shared(listed)
    return roots
