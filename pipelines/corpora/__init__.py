"""Readers of corpora, one module for each corpus; every module satisfies the protocol `Reader`.

`pipelines.corpora.readers.READERS` lists the modules under the names that the config uses. A module has:

    Options                              frozen dataclass: the settings of the corpus
    LICENCE                              licence of rows that state none, unless the config states one
    read(root, name, kind, options, seed)
                                         yields an Utterance for every recording or segment of one kind, with path,
                                         text, speaker and language as far as the corpus knows them. A length of 0 is
                                         measured by ingest; a split of None is chosen by ingest; an `Unfit` row marks
                                         what the corpus itself calls unfit, and becomes a reject row
    listing_digest(root, options)        hash of what is there, made without reading audio; a new hash reruns ingest

A module may have `remarks(root, options)`, too (`RemarkingReader`): lines about what its table and its files do not
share. A corpus that is *made* (`MadeReader`) has `make(root, name, options, seed, utterance)`, too, which writes the
file of an utterance; where it copies it out of other files, MADE_OF_FILES is true, and `listing_digest` looks at these.
A corpus that contains others, or that others contain (`SharedReader`), has
`holds(root, kind, options)`, which names its collections, so that none of them is read twice.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from flowse.audio.recordings import find_recordings
from flowse.data.content import file_facts
from flowse.data.manifest import Kind, Utterance, make_utt_id
from flowse.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Unfit(Utterance):
    """An utterance that its corpus marks as unfit; it becomes a reject row and is never decoded.

    Attributes:
        reason: Machine-readable reason of the reject row.
        detail: One line for people: what is unfit, and why.
    """

    reason: str
    detail: str


@runtime_checkable
class Reader(Protocol):
    """What every corpus module has."""

    Options: type[Any]
    LICENCE: str

    def read(self, root: Path, name: str, kind: Kind, options: Any, seed: int) -> Iterator[Utterance]:
        """Yield the corpus' utterances of one kind in a fixed order."""

    def listing_digest(self, root: Path, options: Any) -> str:
        """Hash what is there without reading audio."""


@runtime_checkable
class MadeReader(Reader, Protocol):
    """A module whose corpus is made, and need not lie on disk before."""

    def make(self, root: Path, name: str, options: Any, seed: int, utterance: Utterance) -> None:
        """Write the file of an utterance that `read` has yielded."""


def is_made_of_files(reader: Reader) -> bool:
    """Whether the recordings of a corpus are copied out of other files, such as tables."""
    return bool(getattr(reader, "MADE_OF_FILES", False))


@runtime_checkable
class SharedReader(Reader, Protocol):
    """A module whose corpus contains others, or is contained in others."""

    def holds(self, root: Path, kind: Kind, options: Any) -> set[str]:
        """Return the names of the collections of one kind that the corpus gives."""


@runtime_checkable
class RemarkingReader(Reader, Protocol):
    """A module that can say what does not fit together in a corpus, though nothing of it is refused."""

    def remarks(self, root: Path, options: Any) -> list[str]:
        """Return a line for everything that does not fit, e.g. files without a row in the table."""


def tree_digest(root: Path, options: Any, *more: Path) -> str:
    """Hash the options, and name and `file_facts` of every audio file below `root` and of every path in `more`."""
    return paths_digest(root, options, [*find_recordings(root), *more])


def paths_digest(root: Path, options: Any, paths: Iterable[Path]) -> str:
    """Hash the options, and for every path its name relative to `root` and its `file_facts`."""
    known = {
        field.name: getattr(options, field.name)
        for field in fields(options)
        # An option that came later is left out at its default, so that work of that time stays fresh.
        if field.metadata.get("fingerprint") != "unless default" or getattr(options, field.name) != field.default
    }
    digest = hashlib.sha256(json.dumps(known, sort_keys=True).encode())
    for path in paths:
        digest.update(os.fsencode(f"{os.path.relpath(path, root)}:{file_facts(path)}\n"))
    return digest.hexdigest()


def corpus_folder(root: Path, corpus: str, *unpacked: str) -> Path:
    """Return the folder in which the layout of a corpus begins.

    Args:
        root: Root in the config.
        corpus: Name in the config.
        unpacked: Names of the folders to which the archives unpack; the root may be such a folder, or hold one.

    Raises:
        UserError: The root does not exist.
    """
    if not root.is_dir():
        raise UserError(
            f"{root}: the folder of corpus {corpus!r} does not exist; mend its root in the experiment's config"
        )
    return next((root / name for name in unpacked if (root / name).is_dir()), root)


def missing_error(folder: Path, corpus: str, what: str) -> UserError:
    """Return the error for a root that lacks something of the corpus' layout; `what` names it."""
    return UserError(
        f"{folder}: corpus {corpus!r} has no {what} there; mend its root, or choose another reader "
        "(pipelines/corpora/README.md shows what each expects)"
    )


def require_kind(kind: Kind, kinds: Sequence[str], corpus: str) -> None:
    """Check that a corpus has recordings of a kind.

    Raises:
        UserError: Naming the kinds that the corpus has.
    """
    if kind not in kinds:
        sections = {"speech": "ingest.speech", "noise": "ingest.noise", "rir": "ingest.rirs"}
        allowed = " or ".join(sections[known] for known in sorted(kinds))
        raise UserError(f"corpus {corpus!r}: its reader gives nothing for {sections[kind]}; name it in {allowed}")


def check_names(key: str, values: Collection[str], allowed: Collection[str]) -> None:
    """Check an option that is a list of known names.

    Raises:
        ValueError: The value is no list, is empty, or holds an unknown name.
    """
    if isinstance(values, str):
        raise ValueError(f"{key}: {values!r} must be a list, [{values}]")
    unknown = [value for value in values if value not in allowed]
    if unknown or not values:
        raise ValueError(f"{key}: {', '.join(map(str, unknown)) or 'empty'}; allowed: {', '.join(allowed)}")


def utterance(
    corpus: str, kind: Kind, path: str, *, offset_s: float | None = None, text: str = "", **known: Any
) -> Utterance:
    """Return the row of a recording, or of a segment of a recording.

    Args:
        corpus: Name of the corpus in the config.
        kind: Kind of the recording.
        path: Path of the file relative to the corpus root.
        offset_s: Where the segment begins, in seconds; None: the row is the whole recording.
        text: Transcript of the corpus.
        known: Other fields of `Utterance`.
    """
    return Utterance(
        utt_id=make_utt_id(corpus, path, offset_s),
        corpus=corpus,
        kind=kind,
        path=path,
        offset_s=offset_s or 0.0,
        text=text,
        text_source="corpus" if text else "",
        **known,
    )


def unfit(row: Utterance, reason: str, detail: str) -> Unfit:
    """Return a row marked as unfit."""
    return Unfit(**vars(row), reason=reason, detail=detail)
