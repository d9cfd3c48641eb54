"""Finds the file that a row of a table means: the same path, or one that differs in spelling only."""

from __future__ import annotations

import os
import posixpath
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

_AMBIGUOUS = ""


class RowFiles:
    """The files of a folder, found by the names that a table gives them.

    A name means the file of exactly this path, else the file whose path is the same without spaces around it, "./",
    "//" and "a/..", with slashes for backslashes, relative to the folder instead of absolute; else the only file that
    links lead to; else the only file whose path differs in Unicode form (NFC, NFD), else in the case of letters.

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

    def find_all(self, named: Sequence[str]) -> list[str | None]:
        """Return for every name of a table the file that it means; None where there is none, or where it is doubtful.

        A name that only resembles that of a file, in Unicode form or case, does not get a file that another name means
        exactly, or that a differently spelt name resembles, too.
        """
        found = [self._same(name) for name in named]
        taken = set(found)
        claims: dict[str, set[str]] = {}
        guesses: dict[int, str] = {}
        for place, name in enumerate(named):
            if found[place] is None and (file := self._similar(name)) and file not in taken:
                claims.setdefault(file, set()).add(self.relative(name))
                guesses[place] = file
        for place, file in guesses.items():
            if len(claims[file]) == 1:
                found[place] = file
        return found

    def _same(self, named: str) -> str | None:
        """Return the file of this path, or of the same path without detours, or the one that it leads to over links."""
        plain = self.relative(named)
        for name in (named, plain):
            if name in self._names:
                return name
        return self._index("real", self._real).get(self._real(plain)) or None

    def _similar(self, named: str) -> str | None:
        """Return the only file whose path differs in Unicode form or in case."""
        plain = self.relative(named)
        for index, key in (("form", _form), ("case", _case)):
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
