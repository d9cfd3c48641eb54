"""A test set of noisy recordings in a folder, with or without clean versions, as the config names it."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from flowse.fetching import ahead, file_at, folder_at
from flowse.outside import Outside, is_url, place_of


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """A test set of recordings in folders.

    Attributes:
        name: Name of the test set in reports and keys.
        noisy: Folder of noisy recordings. It may lie in a store, `s3://bucket/noisy`, and so may the next two.
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
        """Folder of the noisy recordings; `~` is the home folder. One in a store is listed first, once in a process."""
        return self._place("noisy")

    @property
    def clean_folder(self) -> Path | None:
        """Folder of the clean recordings; None if there is none."""
        return self._place("clean") if self.clean else None

    @property
    def transcripts_file(self) -> Path | None:
        """Table of the transcripts, to be read from `flowse.fetching.fetched`; None if there is none."""
        return self._place("transcripts") if self.transcripts else None

    def _place(self, name: str, *, again: bool = False) -> Path:
        """Return where a folder or table is on this machine.

        Args:
            name: The field that names it.
            again: Whether a folder in a store is listed although this process has done so.

        Raises:
            UserError: It is a URL that nobody here can read, or has a home folder that does not exist.
        """
        where, key = getattr(self, name), f"evaluate.pairs {self.name}: {name}"
        found = None
        if is_url(where):
            found = file_at(where) if name == "transcripts" else folder_at(where, key, again=again)
        return place_of(where, key) if found is None else found

    def outside(self) -> dict[str, Outside]:
        """Return the folders and the table, whose names and bytes are hashed: moving a folder changes nothing."""
        from flowse.data.content import content_if_there, file_facts

        found = {}
        for name in ("noisy", "clean", "transcripts"):
            if where := getattr(self, name):
                place = where if is_url(where) else self._place(name).absolute()
                look = partial(_digest, partial(self._place, name, again=True))
                found[name] = Outside(
                    f"recordings of {place}",
                    partial(look, content_if_there, reads=True),
                    facts=partial(look, file_facts),
                )
        return found


def _digest(place: Callable[[], Path], about: Callable[[Path], str], reads: bool = False) -> str:
    """Hash the names of a folder's recordings, or of one file, and what `about` says of each.

    Args:
        place: Returns the folder or file.
        about: Returns what is hashed of a file.
        reads: Whether `about` reads it, so that it is worth to bring files of a store ahead.
    """
    from flowse.audio.recordings import find_recordings

    digest, path = hashlib.sha256(), place()
    files = find_recordings(path) if path.is_dir() else [path]
    for file in ahead(files, lambda file: file) if reads else files:
        digest.update(os.fsencode(f"{os.path.relpath(file, path)}:{about(file)}\n"))
    return digest.hexdigest()[:16]
