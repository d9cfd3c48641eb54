"""Names from outside (tables, manifests, tars, file systems): kept inside their folder, bounded, and safe to print."""

from __future__ import annotations

import hashlib
import os
import re
import unicodedata
from pathlib import Path, PurePosixPath

NAME_BYTES = 255
"""Longest name of a file or folder, in bytes: the limit of ext4, XFS, APFS, NTFS, tar's extractors and others."""

PATH_BYTES = 4095
"""Longest path that a system call takes, in bytes (Linux' PATH_MAX without the end mark)."""

_HASH_CHARACTERS = 16


class UnsafeName(ValueError):
    """A name leads out of its folder, or no file system can hold it; the message names it and says why."""


def why_unsafe(name: str) -> str:
    """Return why a relative name must not become a path below a folder; empty if nothing speaks against it.

    Args:
        name: Path with slashes, as it stands in a table, a manifest, a shard or a tar.
    """
    parts = name.split("/")
    if not name:
        return "it is empty"
    if name.startswith("/") or re.match(r"[A-Za-z]:", name):
        return "it is an absolute path"
    if not name.isprintable() and any(unicodedata.category(character) == "Cc" for character in name):
        return "it holds a control character"
    if "\\" in name:
        return "it holds a backslash, which separates folders on other systems"
    if any(part in ("", ".") or (len(part) > 1 and not part.strip(". ")) for part in parts):
        return "a part of it is empty or consists of dots"
    return why_too_long(name)


def why_too_long(name: str) -> str:
    """Return why no file system can hold a path; empty if one can."""
    size = len(_bytes(name))
    if size <= NAME_BYTES:
        return ""
    if max(len(_bytes(part)) for part in name.split("/")) > NAME_BYTES:
        return f"a part of it has more than {NAME_BYTES} bytes"
    return f"it has more than {PATH_BYTES} bytes" if size > PATH_BYTES else ""


def join_inside(folder: Path, name: str) -> Path:
    """Return the path of a name below a folder; every name from outside becomes a path here.

    Neither the name nor links that lie in the folder already can lead out of it; the folder itself may be a link.

    Args:
        folder: The folder; need not exist.
        name: Relative path with slashes.

    Raises:
        UnsafeName: The name is absolute, empty or too long, holds "..", a control character or a backslash, or leads
            over a link out of the folder.
    """
    why = why_unsafe(name)
    if not why and not is_inside(folder / name, folder):
        why = "a link on its way leads out of the folder"
    if why:
        raise UnsafeName(f"{readable(name[:200])!r} must not be written or read below {folder}: {why}")
    return folder / name


def is_inside(path: Path, folder: Path) -> bool:
    """Return whether a path lies below a folder (or is the folder) after all links are followed."""
    real, real_folder = os.path.realpath(path), os.path.realpath(folder)
    return real == real_folder or real.startswith(real_folder.rstrip("/") + "/")


def bounded(name: str, most: int = NAME_BYTES) -> str:
    """Return a name of at most `most` bytes: a longer one loses its middle for a hash of the whole, not its suffix.

    Args:
        name: Name of a file or folder, without slashes; a name that is short enough is returned as it is.
        most: Limit in bytes.
    """
    if len(_bytes(name)) <= most:
        return name
    digest = hashlib.sha256(_bytes(name)).hexdigest()[:_HASH_CHARACTERS]
    suffix = PurePosixPath(name).suffix
    if len(_bytes(suffix)) > 16:
        suffix = ""
    stem = name.removesuffix(suffix)
    room = most - len(_bytes(suffix)) - len(digest) - 1
    while (excess := len(_bytes(stem)) - room) > 0:
        stem = stem[: len(stem) - max(1, excess // 4)]  # a character has 4 bytes at most
    return f"{stem}-{digest}{suffix}"


def tail(name: str, most: int) -> str:
    """Return the last characters of a name that together have at most `most` bytes."""
    while (excess := len(_bytes(name)) - most) > 0:
        name = name[max(1, excess // 4) :]
    return name


def _bytes(name: str) -> bytes:
    try:
        return os.fsencode(name)
    except UnicodeEncodeError:  # half a character, as JSON can hold it; no file has such a name
        return name.encode("utf-8", "surrogatepass")


def is_text(name: str) -> bool:
    """Return whether a name of the file system is valid UTF-8; Python reads other bytes as lone surrogates."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def readable(text: str) -> str:
    r"""Return a text that any terminal, log or parquet file can hold.

    Bytes that are not UTF-8 and control characters, which can move a terminal's cursor, become escapes such as `\xc4`.
    """
    if text.isprintable():
        return text
    return "".join(_readable(character) for character in text)


def _readable(character: str) -> str:
    if "\udc80" <= character <= "\udcff":  # a byte that Python could not decode
        return f"\\x{ord(character) - 0xDC00:02x}"
    # Cs: surrogates. Bidirectional marks (Cf) turn the order of what follows.
    hidden = unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp")
    if hidden or character in "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069":
        return character.encode("unicode_escape", "surrogatepass").decode()
    return character
