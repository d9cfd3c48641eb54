"""Corpora and test sets in a store: readers list a tree of names on this machine, and a file comes when it is read.

    <folder>/<corpus>/.corpus.json     where the corpus lies
    <folder>/<corpus>/files/…          a file for each object, of its size, but without content: readers look at
                                       names. Tables and texts, which readers open, have their content
    <folder>/<corpus>/copies/…         recordings that were read, under a hash of name and etag; see `Scratch`

A tree is listed by the driver, a thousand objects a request. The times in it are made of the objects' times and etags,
so that every machine sees the same. Workers need no tree: they ask for the object of a path, and what they decode is
compared with the manifest by its hash, as everywhere.
"""

from __future__ import annotations

import array
import fcntl
import hashlib
import json
import os
import re
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from flowse.audio.recordings import AUDIO_SUFFIXES
from flowse.errors import UserError
from flowse.files import write_json
from flowse.names import why_unsafe
from pipelines.engine.scratch import scratch, touch
from pipelines.engine.store import SCHEMES, Entry, Store

MARKER = ".corpus.json"
_FILES, _COPIES = "files", "copies"
_ARCHIVES = (".tar", ".tgz", ".gz", ".bz2", ".xz", ".zst", ".zip", ".7z", ".rar")
_NO_CONTENT = (*AUDIO_SUFFIXES, *_ARCHIVES, ".jpg", ".png", ".pdf", ".mp4")
_TABLES = (".csv.gz", ".tsv.gz", ".json.gz", ".jsonl.gz", ".txt.gz")
_REMEMBERED = 100_000

_trees: dict[Path, RemoteTree] = {}


def is_in_store(root: str) -> bool:
    """Whether a corpus' root is the URL of a store."""
    return root.partition("://")[0] in SCHEMES and "://" in root


def corpora_folder() -> Path:
    """Return the folder of the trees on the driver's machine."""
    return (Path(scratch().folder or "runs/.stores").expanduser() / ".corpora").resolve()


def tree_at(url: str, folder: Path | None = None) -> RemoteTree:
    """Return the tree of a corpus.

    Args:
        url: Where the corpus lies.
        folder: Of the trees; None: that of the driver's machine.
    """
    url = url.rstrip("/")
    name = re.sub(r"[^A-Za-z0-9.-]+", "-", url)[:60]
    place = (folder or corpora_folder()) / f"{name}-{hashlib.sha256(url.encode()).hexdigest()[:8]}"
    if place not in _trees:
        if not (place / MARKER).exists():
            write_json(place / MARKER, {"url": url})
        _trees[place] = RemoteTree(place, Store(url))
    return _trees[place]


def tree_of(path: Path) -> RemoteTree | None:
    """Return the tree in which a path lies; None: in none."""
    for folder in (path, *path.parents):
        if folder.name == _FILES:
            if folder.parent in _trees:
                return _trees[folder.parent]
            try:
                url = json.loads((folder.parent / MARKER).read_text(encoding="utf-8"))["url"]
            except (FileNotFoundError, NotADirectoryError, PermissionError):
                continue
            return _trees.setdefault(folder.parent, RemoteTree(folder.parent, Store(url)))
    return None


def forget_recordings() -> None:
    """Delete the copies of all recordings on the driver's machine; they come again when they are read."""
    for copies in corpora_folder().glob(f"*/{_COPIES}"):
        shutil.rmtree(copies, ignore_errors=True)


class RemoteTree:
    """A corpus in a store, as this machine sees it.

    Attributes:
        folder: Of all that is here of it.
        store: Where it lies.
        root: Folder of the names: the corpus' root for its reader.
    """

    def __init__(self, folder: Path, store: Store) -> None:
        """Remember where both are; nothing is asked yet."""
        self.folder, self.store, self.root = folder, store, folder / _FILES
        self._etags: dict[str, str] = {}
        self._entries: dict[str, Entry] = {}
        self._fetching = [threading.Lock() for _ in range(64)]
        self._listed = False

    def facts(self, path: Path) -> str:
        """Return size and time of an object as the last listing saw it; see `flowse.data.content.file_facts`.

        A file of a folder that this process has not listed, as a table that is named by itself, is asked for.
        """
        try:
            status = path.stat()
        except (OSError, ValueError):
            return "absent" if self._listed else self._facts_now(path)
        return f"({status.st_size}, {status.st_mtime_ns})"

    def _facts_now(self, path: Path) -> str:
        try:
            entry = self.store.head(path.relative_to(self.root).as_posix())
        except FileNotFoundError:
            return "absent"
        return f"({entry.size}, {_time_ns(entry)})"

    def fetched(self, path: Path) -> Path:
        """Return the copy of a file, which comes from the store if it is not here; `path` if the store has none.

        Raises:
            UserError: The store does not answer, or lets nobody in.
        """
        name = path.relative_to(self.root).as_posix()
        known = self._etags.get(name)
        if known is not None and touch(copy := self._copy(name, known)):
            return copy
        if path.suffix.lower() not in AUDIO_SUFFIXES and self._has_content(name) and path.exists():
            return path
        with self._fetching[hash(name) % len(self._fetching)]:
            try:
                etag = self.store.head(name).etag
                copy = self._copy(name, etag)
                if not touch(copy):
                    size = self.store.fetch(name, copy).size
                    scratch().grew(self.folder / _COPIES, size)
            except FileNotFoundError:
                return path
            if len(self._etags) > _REMEMBERED:
                self._etags.clear()
            self._etags[name] = etag
            return copy

    def entry(self, name: str) -> Entry:
        """Return what the store says of an object that is read in parts; it is asked once between two listings.

        Raises:
            FileNotFoundError: There is no such object.
            UserError: The store does not answer, or lets nobody in.
        """
        if name not in self._entries:
            if len(self._entries) > _REMEMBERED:
                self._entries.clear()
            self._entries[name] = self.store.head(name)
        return self._entries[name]

    def _copy(self, name: str, etag: str) -> Path:
        """Return where the copy of an object lies: its name stays, which messages and decoders look at."""
        digest = hashlib.sha256(f"{name}\n{etag}".encode("utf-8", "surrogateescape")).hexdigest()
        return self.folder / _COPIES / digest[:2] / digest[2:32] / name.rpartition("/")[2]

    @staticmethod
    def _has_content(name: str) -> bool:
        """Whether readers may open a file when they list the corpus."""
        lower = name.lower()
        return lower.endswith(_TABLES) or not lower.endswith(_NO_CONTENT)

    def listed(self, key: str, *, again: bool = True) -> Path:
        """List what is in the store, and bring the tree of names up to date; return its root.

        Args:
            key: Where the address is written, for messages.
            again: Whether it is listed although this process has done so.

        Raises:
            UserError: There is no such bucket, nobody is let in, nobody answers, or the prefix holds nothing.
        """
        if self._listed and not again:
            return self.root
        try:
            self.store.require_answer()
            with self._alone():
                count = self._list()
        except UserError as error:
            raise UserError(f"{key}: {error}") from None
        if not count:
            raise UserError(f"{key}: {self.store.url}: holds no object; mend the bucket, or the prefix after it")
        self._listed = True
        self._etags.clear()
        self._entries.clear()
        return self.root

    @contextmanager
    def _alone(self) -> Iterator[None]:
        self.root.mkdir(parents=True, exist_ok=True)
        with (self.folder / ".lock").open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _list(self) -> int:
        """Make the tree that of the store; return the number of objects."""
        seen, wanted = array.array("Q"), list[tuple[str, Entry]]()
        folders: set[str] = set()
        for name, entry in self.store.each():
            if name.endswith("/") or why_unsafe(name):  # consoles make an object for a folder
                continue
            folder = name.rpartition("/")[0]
            if folder not in folders:
                self._make_folder(self.root / folder)
                folders.add(folder)
            seen.append(_hash(name))
            if not self._is_as(name, entry):
                if self._has_content(name):
                    wanted.append((name, entry))
                else:
                    self._write_name(name, entry)
        self.store.fetch_all((name, self.root / name) for name, _ in wanted)
        for name, entry in wanted:
            times = (_time_ns(entry), _time_ns(entry))
            os.utime(self.root / name, ns=times)
        self._forget_others(seen)
        return len(seen)

    def _is_as(self, name: str, entry: Entry) -> bool:
        try:
            status = (self.root / name).stat()
        except (FileNotFoundError, NotADirectoryError):
            return False
        return (status.st_size, status.st_mtime_ns) == (entry.size, _time_ns(entry))

    def _write_name(self, name: str, entry: Entry) -> None:
        """Write a file of an object's size and no content; it takes no blocks of the disk."""
        path = self.root / name
        if path.is_dir():  # in an earlier listing
            shutil.rmtree(path)
        with path.open("wb") as file:
            file.truncate(entry.size)
        os.utime(path, ns=(_time_ns(entry), _time_ns(entry)))

    def _make_folder(self, folder: Path) -> None:
        """Make a folder; a file of an earlier listing may stand in its way."""
        for above in (folder, *folder.parents):
            if above == self.root or above.is_dir():
                break
            if above.is_file():
                above.unlink()
        folder.mkdir(parents=True, exist_ok=True)

    def _forget_others(self, hashes_seen: array.array[int]) -> None:
        """Delete the names of objects that are gone, and folders without any.

        Args:
            hashes_seen: Of the names that are there; eight bytes each, for there may be millions.
        """
        import numpy as np

        seen = np.sort(np.array(hashes_seen, np.uint64))
        for folder, _, names in os.walk(self.root, topdown=False):
            inside = os.path.relpath(folder, self.root)
            paths = [name if inside == "." else f"{inside}/{name}" for name in names]
            hashes = np.array([_hash(path) for path in paths], np.uint64)
            places = np.minimum(np.searchsorted(seen, hashes), max(len(seen) - 1, 0))
            for path, value, place in zip(paths, hashes, places, strict=True):
                if not len(seen) or seen[place] != value:
                    (self.root / path).unlink()
            if inside != ".":
                with suppress(OSError):  # there is something in it
                    Path(folder).rmdir()


def _hash(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(os.fsencode(name), digest_size=8).digest(), "little")


def _time_ns(entry: Entry) -> int:
    """Return the time of a name: the object's, in seconds, and a hash of size and etag in the nanoseconds."""
    mark = hashlib.blake2b(f"{entry.size} {entry.etag}".encode(), digest_size=8).digest()
    return entry.modified_ns // 10**9 * 10**9 + int.from_bytes(mark, "big") % 10**9
