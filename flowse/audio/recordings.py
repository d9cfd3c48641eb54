"""Finds the audio files below a folder: which endings count, which links are followed, and in which order."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from pathlib import Path

AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".opus", ".mp3", ".m4a", ".aac", ".aiff", ".aif", ".sph")
"""Endings, in lower case, of the files in a folder that are taken for recordings; other files are left alone."""


def find_recordings(root: Path, deep: bool = True) -> Iterator[Path]:
    """Yield the files below a folder whose names end in one of `AUDIO_SUFFIXES`; `find_files` states the rules."""
    return find_files(root, AUDIO_SUFFIXES, deep)


def find_files(root: Path, suffixes: Collection[str], deep: bool = True) -> Iterator[Path]:
    """Yield the files below a folder with one of these endings, in upper or lower case.

    A folder's files come before its subfolders, both in the order of their names. Hidden files and folders are
    skipped, and with them what macOS adds to archives (`__MACOSX`, `._x.wav`). Links are followed, except those that
    lead back to a folder on the way to them. A dead link counts as a file, so that reading it reports it as missing.

    Args:
        root: The folder; nothing is found where there is none. The paths that are yielded begin with it.
        suffixes: In lower case, with their dots.
        deep: Whether to look into subfolders.
    """
    return _walk(root, tuple(suffixes), deep, frozenset())


def _walk(folder: Path, suffixes: tuple[str, ...], deep: bool, above: frozenset[str]) -> Iterator[Path]:
    """Yield a folder's files and those below; `above` holds the real paths of the folders that it lies in."""
    real = os.path.realpath(folder)
    if real in above:
        return
    try:
        with os.scandir(folder) as entries:
            visible = sorted((entry.name, _is_folder(entry)) for entry in entries if not entry.name.startswith("."))
    except OSError:
        return
    for name, is_folder in visible:
        if not is_folder and name.lower().endswith(suffixes):
            yield folder / name
    for name, is_folder in visible:
        if is_folder and deep and name != "__MACOSX":
            yield from _walk(folder / name, suffixes, deep, above | {real})


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False
