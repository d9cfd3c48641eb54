"""Finds the audio files below a folder: which endings count, which links are followed, and in which order."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from flowse.errors import UserError
from flowse.names import readable

AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".opus", ".mp3", ".m4a", ".aac", ".aiff", ".aif", ".sph")
"""Endings, in lower case, of the files in a folder that are taken for recordings; other files are left alone."""

_NO_RECORDINGS = ("__MACOSX", "lost+found", "System Volume Information", "$RECYCLE.BIN")
"""Names that archives and file systems give to folders of their own."""


def find_recordings(root: Path, deep: bool = True) -> Iterator[Path]:
    """Yield the files below a folder whose names end in one of `AUDIO_SUFFIXES`; `find_files` states the rules."""
    return find_files(root, AUDIO_SUFFIXES, deep)


def find_files(root: Path, suffixes: Collection[str], deep: bool = True) -> Iterator[Path]:
    """Yield the files below a folder with one of these endings, in upper or lower case.

    A folder's files come before its subfolders, both in the order of their names. Hidden files and folders are
    skipped, and with them what macOS adds to archives (`__MACOSX`, `._x.wav`). Links to folders are followed, but no
    folder is visited twice: a link to a folder that is found under its own name, or was found already, is skipped. A
    dead link counts as a file, so that reading it reports it as missing.

    Args:
        root: The folder; nothing is found where there is none. The paths that are yielded begin with it.
        suffixes: In lower case, with their dots.
        deep: Whether to look into subfolders.

    Raises:
        UserError: A folder cannot be listed.
    """
    real = os.path.realpath(root)
    return _walk(root, tuple(suffixes), deep, _Visited(real, {real}))


@dataclass
class _Visited:
    """The real paths of a walk: that of the folder where it began, and those of the folders that it has entered."""

    root: str
    folders: set[str]

    def enter(self, folder: Path) -> bool:
        """Note a link to a folder; return whether the link is the way to it."""
        real = os.path.realpath(folder)
        inner = real.removeprefix(self.root.rstrip(os.sep) + os.sep)
        by_own_name = inner != real and not any(_is_skipped(part) for part in Path(inner).parts)
        if by_own_name or real in self.folders:
            return False
        self.folders.add(real)
        return True


def _is_skipped(name: str) -> bool:
    return name.startswith(".") or name in _NO_RECORDINGS


def _walk(folder: Path, suffixes: tuple[str, ...], deep: bool, visited: _Visited) -> Iterator[Path]:
    """Yield a folder's files and those below."""
    try:
        with os.scandir(folder) as entries:
            shown = sorted(
                (entry.name, _is_folder(entry), entry.is_symlink()) for entry in entries if not _is_skipped(entry.name)
            )
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise UserError(
            f"{readable(str(folder))}: the folder cannot be listed ({error.strerror}); mend its permissions, or take "
            "it out of the corpus"
        ) from None
    for name, is_folder, _ in shown:
        if not is_folder and name.lower().endswith(suffixes):
            yield folder / name
    for name, is_folder, is_link in shown:
        if is_folder and deep and (not is_link or visited.enter(folder / name)):
            yield from _walk(folder / name, suffixes, deep, visited)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False
