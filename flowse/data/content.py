"""Tells whether a recording still is what ingest decoded: a hash of its file's bytes, compared where audio is read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import xxhash

from flowse.data.manifest import Utterance
from flowse.fetching import facts, fetched
from flowse.refusal import CHANGED, SURROUNDINGS, Refusal

_BLOCK_BYTES = 1 << 20


def content_of(path: Path) -> str:
    """Return the hash of a file's bytes: XXH3 of 128 bits, in hexadecimal.

    A process reads a file once, unless its size, its time of change (mtime) or the time of change of its inode (ctime,
    which no program can set back) is another than before.

    Raises:
        OSError: The file cannot be read.
    """
    path = fetched(path)
    return _hashed(path, *_facts(path))


def content_if_there(path: Path) -> str:
    """Return `content_of` a file; empty if there is none, as where a link leads to nothing, or if it may not be read.

    Raises:
        OSError: The storage fails (`flowse.refusal.SURROUNDINGS`).
    """
    try:
        return content_of(path)
    except OSError as error:
        if error.errno in SURROUNDINGS:
            raise
        return ""


def _facts(path: Path) -> tuple[int, int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


@lru_cache(maxsize=1 << 15)
def _hashed(path: Path, size: int, mtime_ns: int, ctime_ns: int) -> str:
    digest = xxhash.xxh3_128()
    block = bytearray(min(size, _BLOCK_BYTES) or 1)
    view = memoryview(block)
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(block):
            digest.update(view[:count])
    return digest.hexdigest()


def file_facts(path: Path) -> str:
    """Return what tells without reading a file that it may hold other bytes: size, mtime and ctime in nanoseconds.

    No program can set the ctime back, so that a file that was replaced by one of the same size and mtime (`cp -p`,
    `rsync -t`) is seen, too.
    """
    if (known := facts(path)) is not None:
        return known
    try:
        status = path.stat()
    except PermissionError:
        return "forbidden"
    except (OSError, ValueError):  # the file is missing, a link to nothing or to itself, or its name is no name
        return "absent"
    return f"({status.st_size}, {status.st_mtime_ns}, {status.st_ctime_ns})"


@contextmanager
def refusing_changes(path: Path, name: str) -> Iterator[None]:
    """Refuse what was read inside if somebody wrote to the file meanwhile: its parts would not belong together.

    Args:
        path: The file.
        name: How messages name it.

    Raises:
        Refusal: `changed_while_read`.
    """
    try:
        before = _facts(path)
    except (OSError, ValueError):  # it is missing, as a rule: what is inside says so
        yield
        return
    yield
    if _facts(path) != before:
        raise Refusal.failed("changed_while_read", f"{name}: was written to while it was read; run again")


def require_unchanged(row: Utterance, path: Path) -> None:
    """Refuse a recording whose file holds other bytes than ingest decoded; every reader of audio asks this first.

    A row without a content (of a manifest that was made by hand) is not checked.

    Args:
        row: The recording, or a segment of it.
        path: Its file.

    Raises:
        Refusal: `changed_since_ingest`.
        OSError: The storage fails (`flowse.refusal.SURROUNDINGS`); a later try may succeed.
    """
    if not row.content:
        return
    try:
        content = content_of(path)
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno in SURROUNDINGS:
            raise
        why = error.strerror if isinstance(error, OSError) else error
        raise Refusal.failed(
            CHANGED,
            f"{path}: cannot be read any more ({why}); bring it back, or run again: ingest sees that it is gone",
        ) from None
    if content != row.content:
        raise Refusal.failed(
            CHANGED,
            f"{row.path}: holds other bytes than ingest decoded ({content[:12]}, not {row.content[:12]}); run again: "
            "ingest sees the new file",
        )
