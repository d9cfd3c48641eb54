"""Write files and folders that are whole or absent, also after a crash: temporary name, fsync, rename, fsync.

Everything here writes to a hidden name beside the target, so that the rename stays within one file system. Two
processes may write the same target at once: each uses a name of its own, and the target is what one of them wrote.
A killed process leaves its temporary file behind; `remove_temporaries` deletes such files.

Example:
    >>> with atomic_path(folder / "audio.flac") as temporary:
    ...     soundfile.write(temporary, samples, 16_000)
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flowse.names import tail

_TEMPORARIES = ".*.tmp*"
_TEMPORARY_BYTES = 240
"""Longest temporary name: a writer may still add a suffix of its own before the 255 bytes of file systems."""


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def temporary_beside(path: Path) -> Path:
    """Return a hidden name in the folder of `path` that no other process uses; nothing is created.

    The name ends with the name of `path`, because libraries choose a format by the suffixes of a name. Of a very long
    name only the end is taken: a file system that holds `path` must hold the temporary file, too.
    """
    begin = f".{os.getpid()}-{secrets.token_hex(4)}.tmp."
    return path.with_name(begin + tail(path.name, _TEMPORARY_BYTES - len(begin)))


def sync(path: Path) -> None:
    """Flush a file's content, or a folder's list of names, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def move_into_place(temporary: Path, path: Path) -> None:
    """Flush a finished temporary file and give it its final name; whoever needs the name on disk syncs the folder."""
    sync(temporary)
    temporary.replace(path)


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Give a temporary path; the file written there becomes `path` when the block ends without an exception.

    Folders above `path` are created. After an exception `path` is as it was before, and no temporary file is left.

    Raises:
        FileNotFoundError: The block wrote no file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_beside(path)
    try:
        yield temporary
        move_into_place(temporary, path)
        sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path, *, keep_existing: bool = False) -> Iterator[Path]:
    """Give a new temporary folder that becomes `path`, with all its files, when the block ends without an exception.

    Args:
        path: The folder to write. A folder that is there already is replaced; it is absent for the instant between
            two renames, because POSIX cannot swap two folders.
        keep_existing: Leave a folder that is there already as it is and drop the new one: right where all who write
            `path` write the same content, as others may be reading it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_beside(path)
    temporary.mkdir()
    try:
        yield temporary
        for written in (*temporary.rglob("*"), temporary):
            sync(written)
        replace_folder(temporary, path, keep_existing=keep_existing)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def replace_folder(temporary: Path, path: Path, *, keep_existing: bool = False) -> None:
    """Give a finished and flushed temporary folder its final name, in the place of what has it; see `atomic_folder`."""
    while True:
        try:
            temporary.rename(path)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise
        else:
            sync(path.parent)
            return
        if keep_existing and path.is_dir():
            return
        retired = temporary_beside(path)
        try:
            path.rename(retired)
        except FileNotFoundError:  # another process is replacing it too
            continue
        if retired.is_dir() and not retired.is_symlink():
            shutil.rmtree(retired, ignore_errors=True)
        else:
            retired.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file so that it is whole or as before."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 file so that it is whole or as before."""
    write_bytes(path, text.encode())


def write_json(path: Path, content: Any) -> None:
    """Write plain values as JSON with sorted keys, so that equal values give equal bytes, whole or as before."""
    write_text(path, json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False) + "\n")


def remove_temporaries(folder: Path) -> None:
    """Delete the temporary files and folders that killed processes left anywhere below `folder`.

    Only for a folder that no other process is writing to.
    """
    for path in sorted(folder.rglob(_TEMPORARIES)):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
