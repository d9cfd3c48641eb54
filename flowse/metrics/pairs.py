"""A test set of noisy recordings in a folder, with or without clean versions, as the config names it."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from flowse.outside import Outside, place_of


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
        noise_only: The recordings hold no speech: what enhancement leaves of them is measured, and speech is not.

    Raises:
        ValueError: The name has other signs than letters, digits, _ and -, or noise alone has clean versions or texts.
    """

    name: str = "pairs"
    noisy: str = field(default="", metadata={"fingerprint": False, "data": True})
    clean: str = field(default="", metadata={"fingerprint": False, "data": True})
    transcripts: str = field(default="", metadata={"fingerprint": False, "data": True})
    language: str = ""
    noise_only: bool = field(default=False, metadata={"fingerprint": "unless default"})

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9_-]+", self.name):
            raise ValueError(f"name is {self.name!r}; letters, digits, _ and - are allowed")
        if self.noise_only and (self.clean or self.transcripts):
            raise ValueError(
                f"noise_only of {self.name} says that there is no speech; leave clean and transcripts empty"
            )

    @property
    def noisy_folder(self) -> Path:
        """Folder of the noisy recordings; `~` is the home folder."""
        return place_of(self.noisy, f"evaluate.pairs {self.name}: noisy")

    @property
    def clean_folder(self) -> Path | None:
        """Folder of the clean recordings; None if there is none."""
        return place_of(self.clean, f"evaluate.pairs {self.name}: clean") if self.clean else None

    @property
    def transcripts_file(self) -> Path | None:
        """Table of the transcripts; None if there is none."""
        return place_of(self.transcripts, f"evaluate.pairs {self.name}: transcripts") if self.transcripts else None

    def outside(self) -> dict[str, Outside]:
        """Return the folders and the table, whose names and bytes are hashed: moving a folder changes nothing."""
        from flowse.data.content import content_if_there, file_facts

        found = {"noisy": self.noisy_folder, "clean": self.clean_folder, "transcripts": self.transcripts_file}
        return {
            name: Outside(
                f"recordings of {path.absolute()}",
                partial(_digest, path, content_if_there),
                facts=partial(_digest, path, file_facts),
            )
            for name, path in found.items()
            if path is not None
        }


def _digest(path: Path, about: Callable[[Path], str]) -> str:
    """Hash the names of a folder's recordings, or of one file, and what `about` says of each."""
    from flowse.audio.recordings import find_recordings

    digest = hashlib.sha256()
    for file in [path] if path.is_file() else find_recordings(path):
        digest.update(os.fsencode(f"{os.path.relpath(file, path)}:{about(file)}\n"))
    return digest.hexdigest()[:16]
