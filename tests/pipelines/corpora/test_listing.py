"""Laws of listings: they hold every row once, are the same each time, and refuse repeated and unfit rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flowse.data.manifest import Utterance
from flowse.data.parquet import read_rows
from flowse.refusal import Refusal
from pipelines.corpora.config import CorpusConfig, roots_of
from pipelines.corpora.listing import Listing, list_units


def test_units_hold_every_file_once_and_tell_equal_ids_apart(bench: Any, tmp_path: Path) -> None:
    bench.audio("a.flac", "B.flac", "b.flac", "c.wav", "d.ogg")
    corpora = [("speech", CorpusConfig(name="c", root=str(bench.root)))]
    roots = roots_of(corpora, tmp_path)  # type: ignore[arg-type]
    written: list[dict[str, bytes]] = []
    for folder in (tmp_path / "one", tmp_path / "two"):
        units = list(list_units(corpora, roots, folder, 2, 0))  # type: ignore[arg-type]
        assert [(unit.name, unit.taken.utterances) for unit in units] == [("c", 2), ("c", 2), ("c", 1)]
        rows = [list(read_rows(unit.payload.path, Utterance)) for unit in units]
        assert sorted(row.path for part in rows for row in part) == ["B.flac", "a.flac", "b.flac", "c.wav", "d.ogg"]
        repeated = [part[at].path for part, unit in zip(rows, units, strict=True) for at in unit.payload.repeated]
        assert repeated == []
        ids = {row.path: row.utt_id for part in rows for row in part}
        assert (ids["B.flac"], ids["a.flac"]) == ("c/b-flac", "c/a-flac")
        assert ids["b.flac"].startswith("c/b-flac==")
        written.append({path.name: path.read_bytes() for path in folder.iterdir()})
    assert written[0] == written[1]


def test_repeated_and_unfit_rows_are_refused_by_their_position() -> None:
    row = Utterance(utt_id="c/x", corpus="c", kind="speech", path="x.wav")
    listing = Listing(path=Path("c.parquet"), repeated=(1,), refused={2: ("music", "a song")})
    listing.check(0, row)
    with pytest.raises(Refusal, match=r"duplicate_id: x\.wav: an earlier row has the same path and start \(id c/x\)"):
        listing.check(1, row)
    with pytest.raises(Refusal, match="music: a song") as caught:
        listing.check(2, row)
    assert caught.value.kind == "dropped"
