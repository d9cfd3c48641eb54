"""Files that are not on this machine yet: whoever reads a file that others may have written asks for it here first.

The library knows no stores. A program that keeps files elsewhere names a `Source` for its process; without one, every
path stands for itself.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

Item = TypeVar("Item")
_AT_ONCE = 8
_AHEAD = 16


@runtime_checkable
class Source(Protocol):
    """Brings files to this machine."""

    def fetched(self, path: Path, sha256: str = "") -> Path:
        """Return the path at which a file can be read here; see `flowse.fetching.fetched`."""

    def is_far(self, path: Path) -> bool:
        """Whether it takes time to bring a file: it lies in a store."""

    def stretch(self, path: Path, begin: int, end: int, sha256: str, size: int) -> bytes | None:
        """Return bytes of a file; see `flowse.fetching.stretch`."""

    def facts(self, path: Path) -> str | None:
        """Return what tells that a file may hold other bytes; see `flowse.fetching.facts`."""

    def made(self, path: Path) -> None:
        """Keep a file; see `flowse.fetching.made`."""

    def folder_at(self, url: str, key: str, *, again: bool) -> Path | None:
        """List what lies below an address; see `flowse.fetching.folder_at`."""

    def file_at(self, url: str) -> Path | None:
        """Return the path of an object; see `flowse.fetching.file_at`."""


_source: Source | None = None


def use_source(source: Source | None) -> None:
    """Name what brings files to this process; None: nothing does."""
    global _source
    _source = source


def current_source() -> Source | None:
    """Return what brings files to this process, for processes that it starts; None: nothing does."""
    return _source


def fetched(path: Path, sha256: str = "") -> Path:
    """Return the path at which a file can be read on this machine, where it is brought first if it has to be.

    A file that is nowhere is no error here: its reader says so.

    Args:
        path: The file, as it is known.
        sha256: Hash of its content, hexadecimal, where the caller knows it.

    Raises:
        OSError: It cannot be brought now; a later try may succeed.
    """
    return path if _source is None else _source.fetched(path, sha256)


def is_far(path: Path) -> bool:
    """Whether a file lies in a store, so that only processes that know the store can read it."""
    return _source is not None and _source.is_far(path)


def stretch(path: Path, begin: int, end: int, sha256: str, size: int) -> bytes | None:
    """Return the bytes [begin, end) of a file that is better read in part than brought; None: read it from `fetched`.

    Args:
        path: The file.
        begin: Index of the first byte.
        end: Index after the last byte.
        sha256: Hash of its content, hexadecimal.
        size: Its size in bytes.
    """
    return None if _source is None else _source.stretch(path, begin, end, sha256, size)


def facts(path: Path) -> str | None:
    """Return what tells without reading a file that it may hold other bytes; None: its size and times do."""
    return None if _source is None else _source.facts(path)


def made(path: Path) -> None:
    """Hand over a file that was made here and that other machines will read."""
    if _source is not None:
        _source.made(path)


def folder_at(url: str, key: str, *, again: bool = False) -> Path | None:
    """Return a folder whose names are those below an address in a store; each file comes when it is read.

    Args:
        url: The address, e.g. "s3://bucket/folder".
        key: Where it is written, for messages.
        again: Whether it is listed although this process has done so.

    Returns:
        None: this process knows no store at such an address.

    Raises:
        UserError: The store does not answer, lets nobody in, or holds nothing there.
    """
    return None if _source is None else _source.folder_at(url, key, again=again)


def file_at(url: str) -> Path | None:
    """Return the path that stands for an object of a store, which comes when it is read (`fetched`).

    Args:
        url: The address, e.g. "s3://bucket/folder/table.csv".

    Returns:
        None: this process knows no store at such an address.
    """
    return None if _source is None else _source.file_at(url)


def ahead(items: Iterable[Item], path_of: Callable[[Item], Path]) -> Iterator[Item]:
    """Yield items, and bring the files of the next ones meanwhile, several at a time, if they lie in a store.

    Args:
        items: What is read, in order.
        path_of: Returns the file of an item.
    """
    source = _source
    if source is None:
        yield from items
        return
    waiting: deque[tuple[Item, Future[Any] | None]] = deque()
    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="fetch-ahead") as pool:
        try:
            for item in items:
                path = path_of(item)
                # What cannot be brought is said by whoever reads it.
                waiting.append((item, pool.submit(source.fetched, path) if source.is_far(path) else None))
                if len(waiting) > _AHEAD:
                    yield _awaited(waiting)
            while waiting:
                yield _awaited(waiting)
        finally:
            pool.shutdown(cancel_futures=True)


def _awaited(waiting: deque[tuple[Item, Future[Any] | None]]) -> Item:
    item, coming = waiting.popleft()
    if coming is not None:
        coming.exception()
    return item
