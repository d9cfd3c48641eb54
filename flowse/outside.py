"""What a configuration points at outside of the workspace, and may change without notice: where it is, and its hash."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Outside:
    """Files that a configuration points at.

    Attributes:
        place: Says where and how they are looked for: one place always means the same look.
        digest: Looks, which may take minutes, and returns a hash of what is there.
        is_cheap: Whether `digest` asks no file: what is made from settings alone.
    """

    place: str
    digest: Callable[[], str]
    is_cheap: bool = False


Look = Callable[[Outside], str]
"""Returns the hash of files: by looking at them, or by what an earlier look saw."""


def look(outside: Outside) -> str:
    """Look at the files now."""
    return outside.digest()
