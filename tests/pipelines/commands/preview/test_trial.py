"""A tried stage: its items are spread evenly, its account balances, and what it leaves is an output like any other."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

from flowse.data.manifest import Reject, Utterance
from flowse.data.parquet import read_rows, write_rows
from flowse.errors import UserError
from flowse.seeding import generator
from pipelines.commands.preview.trial import Measured, Trial, results, share_splits, shorten
from pipelines.engine.accounts import Tally, UnitReport
from pipelines.engine.records import REJECTS_SUFFIX
from pipelines.engine.resources import Resources
from pipelines.engine.stage import Unit, UnitOutput
from pipelines.engine.units import label_of
from pipelines.stages import ingest, rooms


def test_shortened_payloads_hold_as_many_items_spread_evenly(tmp_path: Path) -> None:
    path = tmp_path / "part.parquet"
    pq.write_table(pa.table({"n": list(range(100))}), path)
    short = pq.read_table(shorten(path, 4, tmp_path))["n"].to_pylist()
    assert short == [0, 25, 50, 75]
    assert isinstance(shorten(str(path), 4, tmp_path), str)
    assert shorten(tuple(range(10)), 5, tmp_path) == (0, 2, 4, 6, 8)
    assert shorten((1, 2), 5, tmp_path) == (1, 2)
    rooms_unit = rooms.SimulatedRooms("train", (1, 2, 3, 4))
    assert shorten(rooms_unit, 2, tmp_path) == rooms.SimulatedRooms("train", (1, 3))
    assert shorten(7, 2, tmp_path) == 7


def test_marks_of_rows_follow_the_rows_that_are_left(tmp_path: Path) -> None:
    path = tmp_path / "part.parquet"
    pq.write_table(pa.table({"n": list(range(100))}), path)
    refused = {0: ("noisy", "by ear"), 1: ("short", ""), 50: ("clipped", "")}
    listing = ingest.Listing(path=path, repeated=(7, 75), refused=refused)
    shortened = shorten(listing, 4, tmp_path)
    assert pq.read_table(shortened.path)["n"].to_pylist() == [0, 25, 50, 75]
    assert shortened.repeated == (3,)
    assert shortened.refused == {0: ("noisy", "by ear"), 2: ("clipped", "")}
    assert shorten(listing, 100, tmp_path).refused == refused


def test_results_stand_for_all_that_the_intermediate_results_hold() -> None:
    plans = Measured("c", Tally(400, 800.0), Tally(8, 16.0), 1.0, 10, 40, hidden=True)
    made = [Measured(name, Tally(20, 40.0), Tally(8, 16.0), 4.0, 100, 2) for name in ("train", "test")]
    whole = results([plans, *made])
    assert sum((group.total for group in whole), Tally()) == Tally(400, 800.0)
    assert sum(group.units for group in whole) == 40
    assert results(made) == made


class Counter:
    """Keeps even numbers of 2 s each, rejects odd ones, and counts its calls."""

    calls = 0

    def __call__(self, payload: tuple[int, ...], output: UnitOutput) -> UnitReport:
        Counter.calls += 1
        output.path(".txt").write_text(" ".join(map(str, payload)))
        even = [number for number in payload if number % 2 == 0]
        rejects = [
            Reject(utt_id=str(number), corpus="c", stage="s", kind="dropped", reason="odd", duration_s=2.0)
            for number in payload
            if number % 2
        ]
        return UnitReport(Tally(len(even), 2.0 * len(even)), tuple(rejects))


def trial(folder: Path) -> Trial:
    return Trial(folder / "t", name="t", seed=0, inputs={}, roots={}, resources=Resources())


def test_every_group_is_tried_in_several_places_and_the_rest_is_left(tmp_path: Path) -> None:
    units = [Unit(corpus, tuple(range(500)), Tally(500, 1000.0), f"{corpus}{n}") for corpus in "ab" for n in range(7)]
    context = trial(tmp_path)
    report = context.map_units(Counter, (), units)
    assert len(context.units) == 6
    assert [label_of(unit) for unit in context.units] == [*"aaabbb"]
    assert report.quarantined == ()  # what was not tried did not fail
    assert context.parts(".txt") == [context.units_folder / f"{unit}.txt" for unit in context.units]
    assert sum(group.total.utterances for group in context.measured) == 14 * 500
    assert sum(group.seconds_in for group in context.measured) == pytest.approx(14 * 1000.0)
    assert report.kept.utterances + report.dropped["odd"].utterances == report.taken.utterances
    # So quick a worker is given the most items that a trial takes.
    assert {group.tried.utterances for group in context.measured} == {64}
    assert len(context.output.parts(".txt")) == 6
    assert all(group.bytes > 0 for group in context.measured)


def test_a_tried_corpus_turns_away_the_rows_that_it_refuses_and_no_others(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", 0.1 * generator(1).standard_normal(16_000), 16_000)
    rows = [Utterance(utt_id=f"c/{n}", corpus="c", kind="speech", path="a.wav", speaker=f"s{n}") for n in range(200)]
    write_rows(tmp_path / "c-00000.parquet", Utterance, rows)
    # Of 200 rows a trial takes 64: 0, 3, 6, …
    marks = {0: ("noisy", ""), 1: ("noisy", ""), 2: ("noisy", ""), 6: ("noisy", "")}
    listing = ingest.Listing(path=tmp_path / "c-00000.parquet", repeated=(), refused=marks)
    context = trial(tmp_path)
    config = ingest.Config(speech=(ingest.CorpusConfig(name="c", root=str(tmp_path)),))
    unit = Unit("c-00000", listing, Tally(200, 0.0))
    report = context.map_units(ingest.Worker, (config, {"c": tmp_path}, 0), [unit])
    assert report.taken.utterances == 64
    rejects = read_rows(context.parts(REJECTS_SUFFIX), Reject)
    assert [(reject.utt_id, reject.reason) for reject in rejects] == [("c/0", "noisy"), ("c/6", "noisy")]


def test_a_stage_without_units_has_nothing_to_try(tmp_path: Path) -> None:
    assert trial(tmp_path).map_units(Counter, (), []).taken == Tally()


def test_a_small_unit_is_done_whole(tmp_path: Path) -> None:
    context = trial(tmp_path)
    report = context.map_units(Counter, (), [Unit("c-0", (0, 1, 2), Tally(3, 6.0))])
    assert report.taken == Tally(3, 6.0)
    assert report.quarantined == ()
    assert context.measured[0].factor == 1.0


def test_lengths_that_only_the_work_tells_are_estimated() -> None:
    measured = Measured("a", Tally(100, 0.0), Tally(10, 25.0), 1.0, 1000, 4)
    assert (measured.factor, measured.seconds_in) == (10.0, 250.0)


def test_stage_files_are_there_or_named(tmp_path: Path) -> None:
    context = trial(tmp_path)
    with context.write("index.parquet") as path:
        path.write_bytes(b"x")
    assert context.output.file("index.parquet").read_bytes() == b"x"
    with pytest.raises(UserError, match=r"no dataset\.json"):
        context.output.file("dataset.json")


@pytest.mark.parametrize(("speakers", "splits"), [(8, {"train": 6, "dev": 1, "test": 1}), (2, {"train": 2})])
def test_a_tried_manifest_has_all_splits_and_leaks_nothing(
    tmp_path: Path, speakers: int, splits: dict[str, int]
) -> None:
    rows = [
        Utterance(utt_id=f"{kind}{n}{k}", corpus="c", kind=kind, path=f"{n}", speaker=f"{kind}{n}", split="train")
        for kind in ("speech", "noise")
        for n in range(speakers)
        for k in range(3)
    ]
    write_rows(tmp_path / "0.parquet", Utterance, rows[::2])
    write_rows(tmp_path / "1.parquet", Utterance, rows[1::2])
    share_splits([tmp_path / "0.parquet", tmp_path / "1.parquet"])
    found = list(read_rows([tmp_path / "0.parquet", tmp_path / "1.parquet"], Utterance))
    assert {row.utt_id for row in found} == {row.utt_id for row in rows}
    for kind in ("speech", "noise"):
        of = {row.speaker: row.split for row in found if row.kind == kind}
        assert {(row.speaker, row.split) for row in found if row.kind == kind} == set(of.items())
        assert {split: list(of.values()).count(split) for split in set(of.values()) if split} == splits
