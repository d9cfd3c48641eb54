"""What a configuration points at outside of the workspace, and may change without notice: where it is, and its hash."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from flowse.errors import UserError


@dataclass(frozen=True)
class Outside:
    """Files that a configuration points at.

    Attributes:
        place: Says where and how they are looked for: one place always means the same look.
        digest: Looks, which may take minutes, and returns a hash of what is there.
        is_cheap: Whether `digest` asks no file: what is made from settings alone.
        facts: Returns a hash of sizes and times, where `digest` reads the files: while it stays, so does `digest`.
    """

    place: str
    digest: Callable[[], str]
    is_cheap: bool = False
    facts: Callable[[], str] | None = None


DigestOf = Callable[[Outside], str]
"""Returns the hash of files: by looking at them, or by what an earlier look saw."""


_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:/")


def is_url(path: str) -> bool:
    """Whether a text is a URL, e.g. "s3://bucket/data", also if a path's rules have made "s3:/bucket/data" of it."""
    return _URL.match(path) is not None


def place_of(path: str, key: str) -> Path:
    """Return a path of a configuration, in which `~` is the home folder.

    Args:
        path: As it is written.
        key: Where it is written, for the message.

    Raises:
        UserError: There is no such home folder, or it is a URL.
    """
    if is_url(path):
        raise UserError(
            f"{key}: {path} is a URL, and this is read from folders alone; copy or mount it, and give the folder"
        )
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise UserError(f"{key}: {path} begins with a home folder that does not exist; write the whole path") from None


def digest_now(outside: Outside) -> str:
    """Look at the files now."""
    return outside.digest()
