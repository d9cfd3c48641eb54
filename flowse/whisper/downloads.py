"""Published models are downloaded once a folder: the first process loads the model alone, and others wait for it."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def download_folder(named: str) -> Path:
    """Return where openai-whisper keeps the models that it downloads.

    Args:
        named: Folder that the configuration names; it counts where it is there. Empty: the user's own cache.
    """
    if named and Path(named).is_dir():
        return Path(named)
    return Path(os.getenv("XDG_CACHE_HOME") or Path.home() / ".cache") / "whisper"


@contextmanager
def first_alone(folder: Path, name: str) -> Iterator[None]:
    """Let the first process that loads a model from a folder do so alone: it downloads the model.

    openai-whisper writes a download under the model's own name at once, so that a second worker of the node would take
    half a file for the whole, find its hash wrong and download it again, over the first one's.

    Args:
        folder: Where the model is kept. One that cannot be written holds whole models, or none.
        name: Of the model.
    """
    marker = folder / f".{name}.complete"
    if not marker.exists():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock = (folder / f".{name}.lock").open("a")
        except OSError:
            yield
            return
        with lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not marker.exists():
                yield
                marker.touch()
                return
    yield
