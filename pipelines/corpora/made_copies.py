"""Finds the files that a corpus which is made has written for recordings that are forgotten since."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from flowse.data.manifest import Utterance
from flowse.data.parquet import RowsError, read_columns, read_rows
from flowse.fetching import fetched
from pipelines.corpora.forgotten import ForgetList


def forgotten_copies(
    old: Sequence[Path], kept: Sequence[Path], forgotten: ForgetList, roots: Mapping[str, Path]
) -> list[Path]:
    """Return the files of forgotten recordings; a file that also holds recordings which are kept is none of them.

    Args:
        old: Parts of manifests that are to be deleted: they are the last to say which file was whose.
        kept: Parts of manifests that stay.
        forgotten: What is forgotten.
        roots: Folder of each corpus that is made, by name.
    """
    found = {(row.corpus, row.path) for part in old for row in _rows(part) if row.corpus in roots and row in forgotten}
    if found:
        for part in kept:
            table = read_columns(part, Utterance, ["corpus", "path"])
            found -= set(zip(table["corpus"].to_pylist(), table["path"].to_pylist(), strict=True))
    return sorted(path for corpus, name in found if (path := fetched(roots[corpus] / name)).is_file())


def _rows(part: Path) -> list[Utterance]:
    """Read a part; one that is damaged names nothing any more."""
    try:
        return list(read_rows(part, Utterance))
    except RowsError:
        return []
