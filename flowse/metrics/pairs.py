"""A test set of noisy recordings in a folder, with or without clean versions, as the config names it."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """A test set of recordings in folders.

    Attributes:
        name: Name of the test set in reports and keys.
        noisy: Folder of noisy recordings.
        clean: Folder of their clean versions under the same names, or under names with the same `fileid_<n>` (as the
            DNS Challenge has them); empty: none, then only scores without a reference.
        transcripts: CSV or parquet with columns path (within `noisy`), text and, if known, language; empty: none.
        language: ISO 639-1 code of recordings whose row does not say.

    Raises:
        ValueError: The name has other signs than letters, digits, _ and -.
    """

    name: str = "pairs"
    noisy: str = field(default="", metadata={"fingerprint": False})
    clean: str = field(default="", metadata={"fingerprint": False})
    transcripts: str = field(default="", metadata={"fingerprint": False})
    language: str = ""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9_-]+", self.name):
            raise ValueError(f"name is {self.name!r}; letters, digits, _ and - are allowed")

    def content_digests(self) -> dict[str, str]:
        """Hash what the folders hold: names and sizes, so that moving a folder changes nothing."""
        return {
            name: _listing(Path(getattr(self, name)))
            for name in ("noisy", "clean", "transcripts")
            if getattr(self, name)
        }


def _listing(path: Path) -> str:
    """Hash the names and sizes of a folder's files, or of one file."""
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    lines = [f"{file.relative_to(path).as_posix()}:{file.stat().st_size}" for file in files]
    return hashlib.sha256(os.fsencode("\n".join(lines))).hexdigest()[:16]
