"""Finds recordings that stand in a manifest under two names, by their content."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import xxhash

from flowse.data.manifest import Utterance
from flowse.data.parquet import read_columns, read_rows
from pipelines.corpora.forgotten import ForgetList

_COLUMNS = ("kind", "corpus", "path", "content")
_File = tuple[str, str, str, str]
"""Kind, corpus, path and content."""


def find_duplicates(parts: Sequence[Path]) -> dict[int, dict[int, str]]:
    """Find the rows whose file has the content of another, earlier file of the same kind.

    Memory holds 20 bytes for each file, and the names of those that are there twice.

    Args:
        parts: Parts of a manifest, in the order in which they were listed.

    Returns:
        By number of the part and position in it, of each such row: why it counts no more, a line that names the first.
    """
    contents, files, numbers = [], [], []
    for number, part in enumerate(parts):
        listed = [names for names in dict.fromkeys(_files(part)) if names[-1]]
        contents.append(np.array([_hash(kind, content) for kind, _, _, content in listed], np.uint64))
        files.append(np.array([_hash(corpus, path) for _, corpus, path, _ in listed], np.uint64))
        numbers.append(np.full(len(listed), number, np.int32))
    if not parts:
        return {}
    content, file, part_of = np.concatenate(contents), np.concatenate(files), np.concatenate(numbers)
    order = np.argsort(content, kind="stable")
    same = content[order][1:] == content[order][:-1]
    other = file[order][1:] != file[order][:-1]
    suspects = np.unique(content[order][1:][same & other])
    if not suspects.size:
        return {}
    touched = np.unique(part_of[np.isin(content, suspects)]).tolist()
    return _marked([(number, parts[number]) for number in touched], {*suspects.tolist()})


def find_forgotten(parts: Sequence[Path], forgotten: ForgetList) -> dict[int, tuple[int, ...]]:
    """Return the positions of the rows whose audio is forgotten, by number of the part; parts without any are left out.

    Args:
        parts: Parts of a manifest.
        forgotten: What is forgotten.
    """
    if not forgotten.holds_audio:
        return {}
    found = {}
    for number, part in enumerate(parts):
        if positions := tuple(at for at, row in enumerate(read_rows(part, Utterance)) if row in forgotten):
            found[number] = positions
    return found


def _files(part: Path) -> Iterator[_File]:
    """Yield kind, corpus, path and content of every row."""
    table = read_columns(part, Utterance, list(_COLUMNS))
    yield from zip(*(table[name].to_pylist() for name in _COLUMNS), strict=True)


def _hash(*names: str) -> int:
    return xxhash.xxh3_64_intdigest("\0".join(names).encode("utf-8", "surrogatepass"))


def _marked(parts: Sequence[tuple[int, Path]], suspects: set[int]) -> dict[int, dict[int, str]]:
    """Compare the names themselves, of rows with suspected contents alone."""
    first: dict[tuple[str, str], tuple[str, str]] = {}
    found: dict[int, dict[int, str]] = {}
    for number, part in parts:
        for position, (kind, corpus, path, content) in enumerate(_files(part)):
            if not content or _hash(kind, content) not in suspects:
                continue
            first_corpus, first_path = first.setdefault((kind, content), (corpus, path))
            if (first_corpus, first_path) != (corpus, path):
                where = first_path if first_corpus == corpus else f"{first_path} of corpus {first_corpus}"
                detail = f"{path}: holds the same bytes as {where}; remove one of the two"
                found.setdefault(number, {})[position] = detail
    return found
