"""Laws of listings: they hold every row once, are the same each time, and refuse repeated and unfit rows."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from flowse.data.manifest import Kind, Utterance
from flowse.data.parquet import read_rows
from flowse.refusal import Refusal
from pipelines.corpora.config import CorpusConfig, roots_of
from pipelines.corpora.listing import Listing, list_units
from pipelines.engine.stage import Divisible, Unit


def listed(bench: Any, folder: Path, size: int = 2, **settings: Any) -> list[Unit[Listing]]:
    """List a corpus into a folder."""
    corpora: list[tuple[Kind, CorpusConfig]] = [("speech", CorpusConfig(name="c", root=str(bench.root), **settings))]
    return list(list_units(corpora, roots_of(corpora, folder), folder, size, 0))


def paths(unit: Unit[Listing]) -> list[str]:
    return [row.path for row in read_rows(unit.payload.path, Utterance)]


def test_units_hold_every_file_once_in_order_and_tell_equal_ids_apart(bench: Any, tmp_path: Path) -> None:
    bench.audio("a.flac", "B.flac", "b.flac", "c.wav", "d.ogg")
    written: list[dict[str, bytes]] = []
    for folder in (tmp_path / "one", tmp_path / "two"):
        units = listed(bench, folder)
        assert {(unit.label, unit.corpus) for unit in units} == {("c", "c")}
        assert [unit.taken.utterances for unit in units] == [len(paths(unit)) for unit in units]
        assert [path for unit in units for path in paths(unit)] == ["B.flac", "a.flac", "b.flac", "c.wav", "d.ogg"]
        assert [unit.payload.repeated for unit in units] == [()] * len(units)
        ids = {row.path: row.utt_id for unit in units for row in read_rows(unit.payload.path, Utterance)}
        assert (ids["B.flac"], ids["a.flac"]) == ("c/b-flac", "c/a-flac")
        assert ids["b.flac"].startswith("c/b-flac==")
        written.append({path.name: path.read_bytes() for path in folder.iterdir()})
    assert written[0] == written[1]
    assert len(written[0]) == len({unit.content for unit in units}) == len(units)


def test_the_order_of_the_table_and_the_place_of_the_corpus_change_no_unit(bench: Any, tmp_path: Path) -> None:
    bench.audio("a.wav", "b.wav", "c.wav", seconds=1.0)
    rows = ["a.wav,0,0.4", "a.wav,0.4,0.4", "b.wav,,", "b.wav,,", "gone.wav,,"]
    found = []
    for lines in (rows, rows[::-1]):
        bench.text("t.csv", "\n".join(["path,offset_s,duration_s", *lines]))
        found.append({unit.content: paths(unit) for unit in listed(bench, tmp_path, options={"table": "t.csv"})})
    bench.root = bench.root.rename(tmp_path / "elsewhere")
    found.append({unit.content: paths(unit) for unit in listed(bench, tmp_path, options={"table": "t.csv"})})
    assert found[0] == found[1] == found[2]
    every = [path for of_unit in found[0].values() for path in of_unit]
    assert every == ["a.wav", "a.wav", "b.wav", "b.wav", "c.wav", "gone.wav"]


@pytest.mark.parametrize("what", ["add", "remove", "replace", "touch", "text"])
def test_a_change_is_one_of_its_own_unit_and_of_at_most_one_beside_it(bench: Any, tmp_path: Path, what: str) -> None:
    names = [f"{number:03d}.wav" for number in range(60)]
    bench.audio(*names, seconds=0.1)
    bench.text("t.csv", "path,text\n000.wav,one\n")
    for name in ("005.wav", "030.wav", "058.wav"):
        before = {unit.content for unit in listed(bench, tmp_path, 5, options={"table": "t.csv"})}
        path = bench.root / name
        if what == "add":
            bench.audio(name.replace(".", "x."))
        elif what == "remove":
            path.unlink()
        elif what == "replace":
            times = path.stat()
            bench.audio("new.wav", seconds=0.1)
            (bench.root / "new.wav").replace(path)
            os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
        elif what == "touch":
            path.touch()
        else:
            bench.text("t.csv", (bench.root / "t.csv").read_text() + f"{name},another text\n")
        after = {unit.content for unit in listed(bench, tmp_path, 5, options={"table": "t.csv"})}
        assert after != before
        assert max(len(after - before), len(before - after)) <= 2


def test_settings_that_reach_the_rows_change_the_units_and_others_do_not(bench: Any, tmp_path: Path) -> None:
    bench.audio("a.wav")
    contents = [
        {unit.content for unit in listed(bench, tmp_path, **settings)}
        for settings in (
            {},
            {"options": {"use_split": True}},
            {"split": "test"},
            {"licence": "CC0-1.0"},
            {"options": {"language": "en"}},
        )
    ]
    assert contents[0] == contents[1]
    assert len({*map(frozenset, contents)}) == 4


def test_a_made_corpus_does_not_change_when_its_files_are_made(tmp_path: Path) -> None:
    corpora: list[tuple[Kind, CorpusConfig]] = [("speech", CorpusConfig(name="demo", reader="demo"))]
    roots = roots_of(corpora, tmp_path / "made")
    before = [unit.content for unit in list_units(corpora, roots, tmp_path / "l", 10, 0)]
    for row in (row for unit in list_units(corpora, roots, tmp_path / "l", 10, 0) for row in _rows(unit)):
        (roots["demo"] / row.path).parent.mkdir(parents=True, exist_ok=True)
        (roots["demo"] / row.path).write_bytes(b"made")
    assert [unit.content for unit in list_units(corpora, roots, tmp_path / "l", 10, 0)] == before


def _rows(unit: Unit[Listing]) -> list[Utterance]:
    return list(read_rows(unit.payload.path, Utterance))


def test_repeated_and_unfit_rows_are_refused_by_their_position() -> None:
    row = Utterance(utt_id="c/x", corpus="c", kind="speech", path="x.wav")
    listing = Listing(path=Path("c.parquet"), repeated=(1,), refused={2: ("music", "a song")})
    listing.check(0, row)
    with pytest.raises(Refusal, match=r"duplicate_id: x\.wav: an earlier row has the same path and start \(id c/x\)"):
        listing.check(1, row)
    with pytest.raises(Refusal, match="music: a song") as caught:
        listing.check(2, row)
    assert caught.value.kind == "dropped"
    divided = listing.refuse({0: ("worker_died", "three times")}).refuse({3: ("worker_died", "at once")})
    assert (divided.repeated, divided.refused) == (listing.repeated, listing.refused)
    for position in (0, 3):
        with pytest.raises(Refusal, match="worker_died") as caught:
            divided.check(position, row)
        assert caught.value.kind == "failed"


def test_a_unit_knows_how_many_rows_it_holds(bench: Any, tmp_path: Path) -> None:
    bench.audio("a.wav", "b.wav", "c.wav")
    units = listed(bench, tmp_path)
    assert [unit.payload.rows for unit in units] == [unit.taken.utterances for unit in units]
    assert all(isinstance(unit.payload, Divisible) for unit in units)
