"""Listings hold every candidate once, and are the same each time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flowse.data.manifest import Utterance
from flowse.data.parquet import read_rows
from pipelines.corpora.config import CorpusConfig, roots_of
from pipelines.corpora.listing import list_units


def test_units_hold_every_file_once_and_mark_repeated_ids(bench: Any, tmp_path: Path) -> None:
    bench.audio("a.flac", "B.flac", "b.flac", "c.wav", "d.ogg")
    corpora = [("speech", CorpusConfig(name="c", root=str(bench.root)))]
    roots = roots_of(corpora, tmp_path)  # type: ignore[arg-type]
    written: list[dict[str, bytes]] = []
    for folder in (tmp_path / "one", tmp_path / "two"):
        units = list(list_units(corpora, roots, folder, 2, 0))  # type: ignore[arg-type]
        assert [(unit.name, unit.taken.utterances) for unit in units] == [
            ("c-00000", 2),
            ("c-00001", 2),
            ("c-00002", 1),
        ]
        rows = [list(read_rows(unit.payload.path, Utterance)) for unit in units]
        assert sorted(row.path for part in rows for row in part) == ["B.flac", "a.flac", "b.flac", "c.wav", "d.ogg"]
        repeated = [part[at].path for part, unit in zip(rows, units, strict=True) for at in unit.payload.repeated]
        assert repeated == ["b.flac"]
        written.append({path.name: path.read_bytes() for path in folder.iterdir()})
    assert written[0] == written[1]
