"""Checks the rows of every reader before anything opens their files: times, names, places, and one identity a file."""

from __future__ import annotations

import hashlib
import math
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from flowse.data.manifest import Kind, Utterance, distinct_id
from flowse.names import is_text, readable, why_too_long
from pipelines.corpora import MadeReader, RemarkingReader, Unfit, unfit
from pipelines.corpora.config import CorpusConfig
from pipelines.corpora.readers import reader_of
from pipelines.engine.remote_tree import tree_of

REASONS = ("not_utf8", "bad_times", "bad_path", "outside_root", "same_file")
"""Reasons for which `rows_of` refuses rows; others come from the readers."""

_PARENTS = 10_000  # real paths of folders that are remembered at once


def rows_of(
    kind: Kind,
    corpus: CorpusConfig,
    root: Path,
    seed: int,
    known: KnownFiles,
    order: Callable[[Iterator[Utterance]], Iterator[Utterance]] = iter,
) -> Iterator[Utterance]:
    """Yield the rows of a corpus; those that cannot be used are `Unfit`.

    Unfit are, with their reason: "not_utf8" (a name of other bytes), "bad_times" (negative or not finite), "bad_path"
    (a name that no file system holds), "outside_root" (see the option `outside` of the readers) and "same_file" (an
    earlier row has the file under another name).

    Args:
        kind: Kind of the corpus' recordings.
        corpus: The corpus.
        root: Its folder.
        seed: For corpora that are made.
        known: The files of the corpora before this one; those of this one are added.
        order: Puts the rows in an order, before it is decided which of two names of a file is the first; without it,
            that is the order of the reader.

    Raises:
        UserError: As the corpus' reader says.
    """
    reader, options = reader_of(corpus.reader, corpus.options, f"corpus {corpus.name!r}")
    made = isinstance(reader, MadeReader)
    if tree := tree_of(root):
        tree.listed(f"root of corpus {corpus.name!r}", again=False)
    # Readers without the option know their layout; only their lists' paths are from outside.
    outside: bool | None = getattr(options, "outside", None)
    for row in order(_plain(row) for row in reader.read(root, corpus.name, kind, options, seed)):
        if made or isinstance(row, Unfit):
            yield row
        else:
            yield _refused(row, root, outside, known) or row


def _plain(row: Utterance) -> Utterance:
    """Return a row, or its reject if its names are no text or its times no times."""
    if not all(map(is_text, (row.path, row.utt_id, row.speaker, row.text))):
        return _not_text(row)
    if not isinstance(row, Unfit) and not (_is_time(row.offset_s) and _is_time(row.duration_s)):
        times = f"offset_s is {row.offset_s:g}, duration_s is {row.duration_s:g}"
        plain = _replaced(row, offset_s=0.0, duration_s=0.0)
        return unfit(plain, "bad_times", f"{row.path}: {times}; give seconds from 0 on, or leave them empty")
    return row


def remarks(corpora: Iterable[tuple[Kind, CorpusConfig]], roots: Mapping[str, Path]) -> list[str]:
    """Return what the readers say about their corpora, a line each, with the corpus' name before it."""
    lines = []
    for _, corpus in corpora:
        reader, options = reader_of(corpus.reader, corpus.options, f"corpus {corpus.name!r}")
        if isinstance(reader, RemarkingReader):
            lines += [f"corpus {corpus.name}: {line}" for line in reader.remarks(roots[corpus.name], options)]
    return lines


def _is_time(seconds: float) -> bool:
    return math.isfinite(seconds) and seconds >= 0


def _replaced(row: Utterance, **values: Any) -> Utterance:
    """Return the row as a plain `Utterance`, with some values changed."""
    kept: dict[str, Any] = {field.name: getattr(row, field.name) for field in fields(Utterance)}
    return Utterance(**{**kept, **values})


def _not_text(row: Utterance) -> Unfit:
    """Return the reject of a row with bytes that are not UTF-8: no parquet, JSON or tar could hold its name."""
    shown = {name: readable(getattr(row, name)) for name in ("path", "speaker", "text")}
    utt_id = row.utt_id if is_text(row.utt_id) else distinct_id(f"{row.corpus.lower()}/=", row.utt_id)
    detail = f"{shown['path']}: the name is not UTF-8; rename the file, e.g. with convmv"
    return unfit(_replaced(row, utt_id=utt_id, offset_s=0.0, duration_s=0.0, **shown), "not_utf8", detail)


def _refused(row: Utterance, root: Path, outside: bool | None, known: KnownFiles) -> Unfit | None:
    """Return the reject of a row whose file may not be read, or that an earlier row has; None for others."""
    why = "it holds a zero byte" if "\0" in row.path else why_too_long(row.path)
    if why or not row.path:
        return unfit(row, "bad_path", f"{readable(row.path[:200])}: {why or 'the path is empty'}; correct the path")
    real = known.real(root, row.path)
    leaves = row.path.startswith("/") or ".." in row.path.split("/") or outside is False
    if not outside and leaves and not _is_below(real, known.real_root(root)):
        mend = "say options.outside: true if it may" if outside is False else "move it below the root"
        return unfit(row, "outside_root", f"{readable(row.path)}: lies outside the corpus' root ({real}); {mend}")
    if first := known.first(row, root, real):
        detail = f"{readable(row.path)}: is the same file as {readable(first)}; remove one of the two names"
        return unfit(row, "same_file", detail)
    return None


def _is_below(path: str, folder: str) -> bool:
    return path.startswith(folder.rstrip("/") + "/")


class KnownFiles:
    """The files of all rows so far, by what they really are: a file under two names counts as the first.

    Rows of one path are segments of it. Files are kept apart by kind: the same recording may be speech to one corpus
    and noise to another.
    """

    def __init__(self) -> None:
        self._roots: dict[str, str] = {}
        self._parents: dict[str, str] = {}
        self._hard_links: dict[tuple[int, int], str] = {}  # by device and number of the file
        # Most files have one name, below their root, without links: a hash of it is all that is kept of them.
        self._plain: dict[tuple[Kind, str], set[int]] = {}
        self._other: dict[tuple[Kind, int], tuple[str, str]] = {}
        self._forgotten: set[tuple[Kind, int]] = set()

    def real_root(self, root: Path) -> str:
        """Return the real path of a corpus' root."""
        name = str(root)
        if name not in self._roots:
            self._roots[name] = os.path.realpath(root)
        return self._roots[name]

    def real(self, root: Path, path: str) -> str:
        """Return the real path of a file, of hard links that of the first; the folders above it are looked up once."""
        parent, name = os.path.split(path if path.startswith("/") else f"{root}/{path}")
        if parent not in self._parents:
            if len(self._parents) >= _PARENTS:
                self._parents.clear()
            self._parents[parent] = os.path.realpath(parent)
        joined = f"{self._parents[parent].rstrip('/')}/{name}"
        try:
            # A `Path` would take longer than the call: there may be ten million files.
            status = os.lstat(joined)
            if name in ("", ".", "..") or stat.S_ISLNK(status.st_mode):
                joined = os.path.realpath(joined)
                status = os.lstat(joined)
        except OSError:
            return joined
        if status.st_nlink > 1 and stat.S_ISREG(status.st_mode):
            return self._hard_links.setdefault((status.st_dev, status.st_ino), joined)
        return joined

    def first(self, row: Utterance, root: Path, real: str) -> str:
        """Return under which name an earlier row has the file of this row; empty if none has. The row is noted."""
        key = _hash(real)
        own = (row.corpus, row.path)
        other = self._other.get((row.kind, key))
        if other == own:
            return ""
        if other is not None:
            return other[1] if other[0] == row.corpus else f"{other[1]} of corpus {other[0]}"
        plain = real == f"{self.real_root(root).rstrip('/')}/{row.path}"
        for (kind, corpus), files in self._plain.items():
            if kind == row.kind and key in files and not (plain and corpus == row.corpus):
                return real if corpus == row.corpus else f"{real} of corpus {corpus}"
        if plain:
            self._plain.setdefault((row.kind, row.corpus), set()).add(key)
        else:
            self._other[row.kind, key] = own
        return ""

    def forget(self, row: Utterance, root: Path) -> None:
        """Note that a row is forgotten, so that another name of its file brings nothing back."""
        self._forgotten.add(self._stretch(row, root))

    def is_forgotten(self, row: Utterance, root: Path) -> bool:
        """Whether a forgotten row has the same stretch of the same file."""
        return bool(self._forgotten) and self._stretch(row, root) in self._forgotten

    def _stretch(self, row: Utterance, root: Path) -> tuple[Kind, int]:
        path = "" if "\0" in row.path else self.real(root, row.path)
        return row.kind, _hash(f"{path}@{row.offset_s:.3f}")


class KnownIds:
    """The ids of a corpus so far; two paths that `make_utt_id` gives the same id are told apart."""

    def __init__(self) -> None:
        # Hashes of 64 bits: ten million of them fit into memory, ten million strings would not.
        self._places: dict[int, int] = {}

    def place(self, row: Utterance) -> tuple[Utterance, bool]:
        """Return the row under an id of its own, and whether an earlier row has the same path and start.

        The first row keeps its id; that of a later row with another path gets a hash of this path.
        """
        start = f"@{round(row.offset_s * 1000)}" if row.offset_s else ""
        place = _hash(row.path + start)
        for utt_id in (row.utt_id, distinct_id(row.utt_id, row.path + start)):
            key = _hash(utt_id)
            if key not in self._places:
                self._places[key] = place
                return (row if utt_id == row.utt_id else replace(row, utt_id=utt_id)), False
            if self._places[key] == place:
                break
        return row, True


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(os.fsencode(text), digest_size=8).digest(), "big")
