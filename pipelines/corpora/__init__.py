"""Corpora, one module each, all with the same face; `READERS` names them for the config.

The face of a corpus module:

    Options                              frozen dataclass: the corpus' own settings
    LICENCE                              for rows that do not say, if the config does not either
    read(root, name, kind, options, seed)
                                         yield an Utterance for every recording or segment of one kind: path, text,
                                         speaker, language; lengths may be 0, ingest measures them; `split` None
                                         leaves the choice to ingest. A `Unfit` for what the corpus itself marks as
                                         unfit: ingest makes a reject row of it
    listing_digest(root, options)        what is there, hashed without reading audio: a changed listing reruns ingest

A corpus that is *made* has `make(root, name, options, seed, utterance)` as well, which writes the utterance's file. One
that others contain, or that contains others, has `holds(root, kind, options)`: the names of the collections that it
gives, so that none is counted twice.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from flowse.audio.recordings import find_recordings
from flowse.data.manifest import Kind, Utterance, make_utt_id
from flowse.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Unfit(Utterance):
    """An utterance that its corpus marks as unfit: counted, and never decoded.

    Attributes:
        reason: Machine-readable reason of the reject row.
        detail: One line for people.
    """

    reason: str
    detail: str


class Reader(Protocol):
    """The face of a corpus module."""

    Options: type[Any]
    LICENCE: str

    def read(self, root: Path, name: str, kind: Kind, options: Any, seed: int) -> Iterator[Utterance]:
        """Yield the corpus' utterances of one kind in a fixed order."""

    def listing_digest(self, root: Path, options: Any) -> str:
        """Hash what is there without reading audio."""


def tree_digest(root: Path, options: Any, *more: Path) -> str:
    """Hash the options and, for every audio file below `root` and every path in `more`: name, size, time of change."""
    return paths_digest(root, options, [*find_recordings(root), *more])


def paths_digest(root: Path, options: Any, paths: Iterable[Path]) -> str:
    """Hash the options and, for every path: name relative to `root`, size, time of change."""
    digest = hashlib.sha256(json.dumps(asdict(options), sort_keys=True).encode())
    for path in paths:
        try:
            stat = path.stat()
        except PermissionError:
            raise
        except OSError:  # gone, or a link to nothing or to itself
            facts = "absent"
        else:
            facts = f"({stat.st_size}, {stat.st_mtime_ns})"
        digest.update(f"{os.path.relpath(path, root)}:{facts}\n".encode())
    return digest.hexdigest()


def corpus_folder(root: Path, corpus: str, *unpacked: str) -> Path:
    """Return the folder that a corpus' own layout begins in.

    Args:
        root: As in the config.
        corpus: Its name there.
        unpacked: Folders that its archives unpack to; the root may be such a folder, or hold one.

    Raises:
        UserError: The root does not exist.
    """
    if not root.is_dir():
        raise UserError(
            f"{root}: the folder of corpus {corpus!r} does not exist; mend its root in the experiment's config"
        )
    return next((root / name for name in unpacked if (root / name).is_dir()), root)


def missing_error(folder: Path, corpus: str, what: str) -> UserError:
    """Return the mistake of a root that does not hold what the corpus has there."""
    return UserError(
        f"{folder}: corpus {corpus!r} has no {what} there; mend its root, or choose another reader "
        "(pipelines/corpora/README.md shows what each expects)"
    )


def require_kind(kind: Kind, kinds: Sequence[str], corpus: str) -> None:
    """Refuse to look for a kind of recording that a corpus does not have.

    Raises:
        UserError: Naming the kinds that it has.
    """
    if kind not in kinds:
        sections = {"speech": "ingest.speech", "noise": "ingest.noise", "rir": "ingest.rirs"}
        allowed = " or ".join(sections[one] for one in sorted(kinds))
        raise UserError(f"corpus {corpus!r}: its reader gives nothing for {sections[kind]}; name it in {allowed}")


def check_names(key: str, values: Collection[str], allowed: Collection[str]) -> None:
    """Check an option that chooses among names.

    Raises:
        ValueError: It is no list, is empty, or names something unknown.
    """
    if isinstance(values, str):
        raise ValueError(f"{key}: {values!r} must be a list, [{values}]")
    unknown = [value for value in values if value not in allowed]
    if unknown or not values:
        raise ValueError(f"{key}: {', '.join(map(str, unknown)) or 'empty'}; allowed: {', '.join(allowed)}")


def utterance(
    corpus: str, kind: Kind, path: str, *, offset_s: float | None = None, text: str = "", **known: Any
) -> Utterance:
    """Describe a recording, or with an offset a segment of one.

    Args:
        corpus: Its name in the config.
        kind: What it is.
        path: Relative to the corpus root.
        offset_s: Where a segment begins; None: the whole recording.
        text: The corpus' own transcript.
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
    """Mark a row as unfit."""
    return Unfit(**vars(row), reason=reason, detail=detail)
