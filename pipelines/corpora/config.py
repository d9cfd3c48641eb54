"""One corpus of an experiment's config, and the folder that it lies in."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flowse.data.manifest import SPLITS, Kind
from flowse.errors import UserError
from pipelines.corpora.readers import READERS, reader_of, refuse_twice


@dataclass(frozen=True, kw_only=True)
class CorpusConfig:
    """One corpus of an experiment.

    Attributes:
        name: Unique in the experiment; becomes part of every utterance id.
        reader: Which module of `pipelines/corpora/` reads it.
        root: Its folder; a corpus that is made needs none. Not in the fingerprint: what counts is what is there.
        split: Puts the whole corpus into one split; empty: the speaker decides.
        licence: For rows that do not say; empty: what the reader knows of its corpus.
        options: The reader's own settings.
    """

    name: str
    reader: str = "folder"
    root: str = field(default="", metadata={"fingerprint": False})
    split: str = ""
    licence: str = ""
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.reader not in READERS:
            raise ValueError(f"reader: {self.reader!r} is not one of {', '.join(sorted(READERS))}")
        if self.split not in ("", *SPLITS):
            raise ValueError(f"split: {self.split!r} is not one of {', '.join(SPLITS)} or empty")


def refuse_repeated(corpora: Iterable[CorpusConfig]) -> None:
    """Refuse two corpora of one name.

    Raises:
        ValueError: Naming the names that repeat.
    """
    names = [corpus.name for corpus in corpora]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ValueError(f"corpus names repeat: {', '.join(repeated)}; every corpus needs a name of its own")


def content_digests(corpora: Iterable[CorpusConfig]) -> dict[str, str]:
    """Hash what is in the corpora's folders, so that new or changed files rerun the stage that reads them."""
    return {
        corpus.name: reader.listing_digest(Path(corpus.root), options)
        for corpus in corpora
        for reader, options in [reader_of(corpus.reader, corpus.options, f"corpus {corpus.name!r}")]
    }


def roots_of(corpora: Iterable[tuple[Kind, CorpusConfig]], made: Path) -> dict[str, Path]:
    """Return the folder of every corpus; those that are made get one below `made`, named by their options.

    Raises:
        UserError: A corpus that is not made has no root, or two corpora hold the same recordings.
    """
    roots = {}
    read = []
    for kind, corpus in corpora:
        reader, options = reader_of(corpus.reader, corpus.options, f"corpus {corpus.name!r}")
        if hasattr(reader, "make"):
            default = made / f"{corpus.name}-{reader.listing_digest(Path(), options)[:12]}"
            roots[corpus.name] = Path(corpus.root).resolve() if corpus.root else default
        elif corpus.root:
            roots[corpus.name] = Path(corpus.root).expanduser().resolve()
        else:
            raise UserError(f"corpus {corpus.name!r}: `root` is missing; say in the experiment's config where it lies")
        read.append((kind, corpus.name, reader, options, roots[corpus.name]))
    refuse_twice(read)
    return roots
