"""Finds the file that a row of a table means: the same path, or one that differs in spelling only."""

from __future__ import annotations

import os
import posixpath
import unicodedata
from collections.abc import Callable, Iterable
from pathlib import Path

_AMBIGUOUS = ""


class RowFiles:
    """The files of a folder, found by the names that a table gives them.

    A name means the file of exactly this path, else the only file whose path is the same after these steps, in this
    order: without spaces around it, "./", "//" and "a/..", with slashes for backslashes, relative to the folder
    instead of absolute, in one Unicode form (NFC); then the file that links lead to; then the only file whose path
    differs in the case of letters.

    Args:
        root: The folder.
        names: Paths of its files relative to `root`, with slashes.
    """

    def __init__(self, root: Path, names: Iterable[str]) -> None:
        self._root = root
        self._real_root = os.path.realpath(root)
        self._names = dict.fromkeys(names)
        # Most tables name files exactly; each further index is built when a row first needs it.
        self._indices: dict[str, dict[str, str]] = {}

    def __len__(self) -> int:
        return len(self._names)

    def __iter__(self) -> Iterable[str]:
        return iter(self._names)

    def find(self, named: str) -> str | None:
        """Return the path of the file that a name means, relative to the folder; None if there is none or several."""
        if named in self._names:
            return named
        plain = self.relative(named)
        if plain in self._names:
            return plain
        for index, key in (("form", _form), ("real", self._real), ("case", _case)):
            if found := self._index(index, key).get(key(plain)):
                return found
        return None

    def relative(self, named: str) -> str:
        """Return a name as a path relative to the folder where it lies below it, with slashes and without detours."""
        name = named.strip()
        if "\\" in name and "/" not in name:
            name = name.replace("\\", "/")
        if name.startswith("/"):
            for root in (str(self._root.absolute()), self._real_root):
                if name.startswith(root.rstrip("/") + "/"):
                    return posixpath.normpath(os.path.relpath(name, root))
        return posixpath.normpath(name) if name else name

    def _index(self, name: str, key: Callable[[str], str]) -> dict[str, str]:
        if name not in self._indices:
            found: dict[str, str] = {}
            for path in self._names:
                folded = key(path)
                found[folded] = _AMBIGUOUS if folded in found else path
            self._indices[name] = found
        return self._indices[name]

    def _real(self, name: str) -> str:
        try:
            return os.path.realpath(self._root / name)
        except (ValueError, OSError):  # a zero byte, or a name that no file has
            return name


def _form(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _case(name: str) -> str:
    return unicodedata.normalize("NFC", name.casefold())
