"""Laws of a stage's context: what is written is whole or absent, and a stage with quarantined units does not go on."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest

from flowse.errors import UserError
from pipelines.engine.accounts import Tally, merge
from pipelines.engine.context import Context, UnrecordedOutput
from pipelines.engine.fingerprint import Identity, UnitKeys
from pipelines.engine.records import IDENTITY_RECORD, STAGE_RECORD, RunFacts, write_record
from pipelines.engine.stage import Unit
from pipelines.engine.units import label_of
from pipelines.engine.workspace import commit_stage
from tests.pipelines.engine.writer import Writer, units

_RUN = RunFacts(code_commit="c", versions={}, seconds=1.0, finished_at="2026-01-01T00:00:00+0000")


def test_only_a_folder_has_to_be_given(tmp_path: Path) -> None:
    context = Context(tmp_path / "deep" / "rooms")
    assert context.local
    assert context.name == "rooms"
    report = context.map_units(Writer, ({}, tmp_path), units(3))
    assert report.kept == Tally(3, 3.0)
    assert [label_of(unit) for unit in context.units] == ["part-0", "part-1", "part-2"]
    assert context.output.parts(".txt") == context.parts(".txt")
    assert [file.label for file in context.unit_files(".txt")] == ["part-0", "part-1", "part-2"]


def test_a_stage_with_quarantined_units_stops_and_says_what_to_read(tmp_path: Path) -> None:
    context = Context(tmp_path / "rooms")
    with pytest.raises(
        UserError,
        match=r"rooms is incomplete: 1 of 3 units .*part-1-[0-9a-f]{20}\); read .*part-1-[0-9a-f]{20}.quarantine.txt",
    ):
        context.map_units(Writer, ({"unit1": "raise"}, tmp_path), units(3))


def test_a_stage_file_is_whole_or_absent(tmp_path: Path) -> None:
    context = Context(tmp_path)
    with context.write("model/weights") as path:
        path.write_bytes(b"x")
    assert (tmp_path / "model" / "weights").read_bytes() == b"x"
    assert context.files["model/weights"].bytes == 1

    def break_off() -> None:
        with context.write("index") as path:
            path.write_bytes(b"x")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        break_off()
    assert not (tmp_path / "index").exists()
    assert "index" not in context.files


def test_files_without_a_record_are_read_like_a_finished_stage(tmp_path: Path) -> None:
    for name in ("b.parquet", "a.parquet", "a.tar", "index.json"):
        (tmp_path / name).touch()
    assert [path.name for path in UnrecordedOutput(tmp_path).parts(".parquet")] == ["a.parquet", "b.parquet"]
    (tmp_path / "units").mkdir()
    for name in ("b.parquet", "a.parquet"):
        (tmp_path / "units" / name).touch()
    some = UnrecordedOutput(tmp_path, ["b", "c", "a"])
    assert [path.name for path in some.parts(".parquet")] == ["b.parquet", "a.parquet"]
    assert some.file("index.json") == tmp_path / "index.json"
    with pytest.raises(UserError, match=r"no dataset\.json"):
        some.file("dataset.json")


def test_a_stage_may_do_without_named_units_in_quarantine(tmp_path: Path) -> None:
    context = Context(tmp_path / "rooms", may_lack=["rooms/" + name_of(1)])
    report = context.map_units(Writer, ({"unit1": "raise"}, tmp_path), units(3))
    assert report.kept == Tally(2, 2.0)
    assert context.lacks == {f"rooms/{name_of(1)}"}
    assert [label_of(unit) for unit in context.units] == ["part-0", "part-2"]
    # It is in quarantine already: nothing is tried.
    again = Context(tmp_path / "rooms", may_lack=[name_of(1)])
    again.map_units(Writer, ({"unit1": "setup"}, tmp_path), units(3))
    assert again.lacks == context.lacks
    # A reader of the output knows what its input lacks.
    reader = Context(tmp_path / "other", inputs={"rooms": UnrecordedOutput(tmp_path, lacks=("rooms/x",))})
    assert reader.lacks == {"rooms/x"}


def name_of(number: int) -> str:
    """The name that a context named "rooms" gives to a unit of `units`."""
    return f"part-{number}-{UnitKeys('rooms')(f'unit{number}')}"


def test_a_unit_takes_the_place_of_the_one_that_it_replaces(tmp_path: Path) -> None:
    context = Context(tmp_path / "rooms")
    context.map_units(Writer, ({}, tmp_path), units(3))
    context.map_units(Writer, ({}, tmp_path), [Unit("mended", "other", Tally(1, 1.0), "m", replaces=name_of(1))])
    assert [label_of(unit) for unit in context.units] == ["part-0", "mended", "part-2"]
    assert context.hidden == {name_of(1)}
    assert context.account().taken == Tally(3, 3.0)
    assert [path.read_text() for path in context.parts(".txt")] == ["unit0", "other", "unit2"]
    assert [path.read_text() for path in (file.path for file in context.unit_files(".txt", hidden=True))] == ["unit1"]


def test_units_are_counted_by_corpus(tmp_path: Path) -> None:
    context = Context(tmp_path / "rooms")
    listed = [dataclasses.replace(unit, corpus=corpus) for unit, corpus in zip(units(3), "aba", strict=True)]
    context.map_units(Writer, ({"unit1": "reject"}, tmp_path), listed)
    accounts = context.accounts()
    assert {corpus: (report.taken.utterances, len(report.failed)) for corpus, report in accounts.items()} == {
        "a": (2, 0),
        "b": (1, 1),
    }


def test_equal_units_are_one_if_they_hold_nothing_and_a_mistake_if_they_do(tmp_path: Path) -> None:
    context = Context(tmp_path / "rooms")
    empty = Unit("u", "x", Tally(), "same")
    assert len(context.named([empty, empty])) == 1
    with pytest.raises(ValueError, match="their contents must differ"):
        context.named([dataclasses.replace(empty, taken=Tally(1, 1.0))] * 2)


def test_earlier_outputs_of_the_stage_come_youngest_first(tmp_path: Path) -> None:
    stage = tmp_path / "rooms"
    for at, name in enumerate(("old", "younger", "begun", "broken", "this")):
        write_record(stage / name / IDENTITY_RECORD, Identity("rooms", 1, 0, {}, {}))
        os.utime(stage / name / IDENTITY_RECORD, (at, at))
        if name not in ("begun", "broken"):
            commit_stage(stage / name, merge([]), [], {}, _RUN)
    (stage / "broken" / STAGE_RECORD).write_text('{"of": "another version"}')
    context = Context(stage / "this", name="rooms")
    assert [output.folder.name for output in context.earlier()] == ["younger", "old"]
    assert list(Context(tmp_path / "alone").earlier()) == []
