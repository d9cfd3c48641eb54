"""Corpora, one module each, all with the same face; `READERS` names them for the config.

The face of a corpus module:

    Options                              frozen dataclass: the corpus' own settings
    read(root, name, kind, options, seed)
                                         yield an Utterance for every recording or segment of one kind: path, text,
                                         speaker, language; lengths may be 0, ingest measures them; `split` None
                                         leaves the choice to ingest
    listing_digest(root, options)        what is there, hashed without reading audio: a changed listing reruns ingest

A corpus that is *made* has `make(root, name, options, seed, utterance)` as well, which writes the utterance's file.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

from flowse.data.manifest import Kind, Utterance

AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".opus", ".mp3", ".m4a", ".aac", ".aiff", ".aif", ".sph")


class Reader(Protocol):
    """The face of a corpus module."""

    Options: type[Any]

    def read(self, root: Path, name: str, kind: Kind, options: Any, seed: int) -> Iterator[Utterance]:
        """Yield the corpus' utterances of one kind in a fixed order."""

    def listing_digest(self, root: Path, options: Any) -> str:
        """Hash what is there without reading audio."""


def audio_files(root: Path) -> Iterator[Path]:
    """Yield the audio files below a folder, in order of relative path, following links, skipping hidden ones."""
    for folder, subfolders, files in os.walk(root, followlinks=True):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        for name in sorted(files):
            if name.lower().endswith(AUDIO_SUFFIXES) and not name.startswith("."):
                yield Path(folder) / name


def tree_digest(root: Path, options: Any, *more: Path) -> str:
    """Hash the options and, for every audio file below `root` and every path in `more`: name, size, time of change."""
    digest = hashlib.sha256(json.dumps(asdict(options), sort_keys=True).encode())
    for path in [*audio_files(root), *more]:
        stat = path.stat() if path.exists() else None
        facts = (stat.st_size, stat.st_mtime_ns) if stat else "absent"
        digest.update(f"{os.path.relpath(path, root)}:{facts}\n".encode())
    return digest.hexdigest()
