"""Laws of the rooms stage: its bank is a function of seed and config, and every measured response is accounted for."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile as sf

from flowse.data.manifest import Utterance
from flowse.data.parquet import read_rows, write_rows
from flowse.errors import UserError
from flowse.simulation.rir_bank import RirBank, RirRow
from flowse.simulation.rooms import RoomDraw
from pipelines.engine.backend import Backend, UnitRunner
from pipelines.engine.context import Context, UnrecordedOutput
from pipelines.engine.fingerprint import UnitKeys, unit_settings
from pipelines.engine.local_units import map_units
from pipelines.engine.resources import Capacity, Node
from pipelines.stages import rooms
from tests.pipelines.doubles import backwards_by_many_workers, files_of

CONFIG = rooms.Config(
    train_rooms=3,
    dev_rooms=1,
    test_rooms=1,
    draw=RoomDraw(rt60_s=(0.15, 0.25), length_m=(3.0, 3.5), width_m=(2.5, 3.0), height_m=(2.4, 2.5), sources=2),
    rooms_per_unit=2,
    responses_per_unit=2,
)


def _context(folder: Path, manifest: Sequence[Utterance], map_units: UnitRunner = map_units) -> Context:
    folder.with_suffix(".ingest").mkdir()
    write_rows(folder.with_suffix(".ingest") / "part-0.parquet", Utterance, manifest)
    return Context(
        folder,
        name="rooms",
        seed=1,
        inputs={"ingest": UnrecordedOutput(folder.with_suffix(".ingest"))},
        roots={"slr": folder.parent / "slr"},
        backend=Backend(Capacity((Node(1.0),)), map_units, local=True),
    )


def _rir(name: str, room: str, **known: Any) -> Utterance:
    return Utterance(
        utt_id=f"slr/{name}", corpus="slr", kind="rir", path=f"{name}.wav", speaker=room, split="train",
        licence="Apache-2.0", duration_s=0.5, **known,
    )  # fmt: skip


def _manifest(folder: Path) -> list[Utterance]:
    """Two measured rooms of two responses, one of them in stereo; one silent file and one that is no audio."""
    (folder / "slr").mkdir()
    rng = np.random.default_rng(0)
    for name, channels in (("a1", 1), ("a2", 2), ("b1", 1)):
        samples = rng.standard_normal((8000, channels)) * np.exp(-np.arange(8000) / 500)[:, None] * 0.1
        samples[100, 0] = 0.9
        sf.write(folder / "slr" / f"{name}.wav", samples, 16_000)
    sf.write(folder / "slr" / "b2.wav", np.zeros(8000), 16_000)
    (folder / "slr" / "c1.wav").write_text("<html>")
    return _manifest_rows()


def _manifest_rows() -> list[Utterance]:
    return [_rir("b1", "b"), _rir("a2", "a"), _rir("a1", "a"), _rir("b2", "b"), _rir("c1", "c")]


def test_the_bank_is_the_same_in_any_order_and_holds_every_room(tmp_path: Path) -> None:
    manifest = _manifest(tmp_path)
    forwards = _context(tmp_path / "forwards", manifest)
    backwards = _context(tmp_path / "backwards", manifest[::-1], backwards_by_many_workers)
    report, again = rooms.run(CONFIG, forwards), rooms.run(CONFIG, backwards)
    assert report == again
    assert files_of(forwards.folder) == files_of(backwards.folder)
    rows = list(read_rows(forwards.folder / "index.parquet", RirRow))
    simulated = [row for row in rows if row.origin == "simulated"]
    assert len({row.room_id for row in simulated}) == 5
    assert len(simulated) == 10
    assert {(row.room_id, row.source) for row in rows if row.origin == "measured"} == {
        ("slr/a", 0),
        ("slr/a", 1),
        ("slr/b", 0),
    }
    bank = RirBank(forwards.folder)
    for row in rows:
        rir = bank.read(row)
        assert np.abs(rir.samples).max() > 0.5
        assert (row.sample_rate, len(rir.samples)) == (24_000, row.samples)
    # A silent response is dropped; a file that cannot be decoded fails.
    assert report.taken.utterances == report.kept.utterances + 2
    assert {reason: tally.utterances for reason, tally in report.dropped.items()} == {"silent": 1}
    assert sum(tally.utterances for tally in report.failed.values()) == 1


def test_more_rooms_change_no_room(tmp_path: Path) -> None:
    few, more = _context(tmp_path / "few", []), _context(tmp_path / "more", [])
    rooms.run(CONFIG, few)
    rooms.run(dataclasses.replace(CONFIG, train_rooms=5, rooms_per_unit=3), more)
    kept, bank, other = {}, RirBank(few.folder), RirBank(more.folder)
    for row in read_rows(more.folder / "index.parquet", RirRow):
        kept[row.room_id, row.source] = other.read(row).samples.tobytes()
    for row in read_rows(few.folder / "index.parquet", RirRow):
        assert kept[row.room_id, row.source] == bank.read(row).samples.tobytes()


def test_more_rooms_make_again_no_unit_but_the_last_of_the_split_that_was_not_full(tmp_path: Path) -> None:
    units = tmp_path / "units"

    def run(config: rooms.Config, manifest: Sequence[Utterance] = ()) -> tuple[list[str], set[str]]:
        """Return all units, and the labels of those that were made."""
        before = {path.stem for path in units.glob("*.npy")}
        context = _context(tmp_path / str(len(list(tmp_path.iterdir()))), manifest)
        keys = UnitKeys("rooms", rooms.REVISION, unit_settings(config), 1)
        context = Context(
            context.folder, seed=1, units_folder=units, keys=keys, inputs=context.inputs, roots=context.roots
        )
        rooms.run(config, context)
        return context.units, {path.stem for path in units.glob("*.npy")} - before

    few, made = run(CONFIG)
    assert made == set(few)
    more, made = run(dataclasses.replace(CONFIG, train_rooms=6))
    assert len(set(few) - set(more)) == 1  # of the third room, which was alone in its unit
    assert {name.rpartition("-")[0] for name in made} == {"simulated-train"}
    assert len(made) == 2
    measured, made = run(CONFIG, _manifest(tmp_path))
    assert set(few) < set(measured)
    assert made == set(measured) - set(few)
    changed, made = run(dataclasses.replace(CONFIG, image_order=2), _manifest_rows())
    assert {name.rpartition("-")[0] for name in made} == {f"simulated-{split}" for split in ("train", "dev", "test")}
    assert len(changed) == len(measured)


def test_rooms_of_different_splits_differ(tmp_path: Path) -> None:
    context = _context(tmp_path / "out", [])
    rooms.run(CONFIG, context)
    rows = list(read_rows(context.folder / "index.parquet", RirRow))
    places = {row.microphone_m: row.split for row in rows}
    assert len(places) == len({row.room_id for row in rows}) == 5


def test_impossible_rooms_stop_before_any_work(tmp_path: Path) -> None:
    hall = RoomDraw(length_m=(30.0, 30.0), width_m=(30.0, 30.0), height_m=(20.0, 20.0), rt60_s=(0.1, 0.1))
    with pytest.raises(UserError, match=r"rooms\.draw.*rt60_s"):
        rooms.run(dataclasses.replace(CONFIG, draw=hall), _context(tmp_path / "out", []))


@pytest.mark.parametrize(("key", "value"), [("train_rooms", -1), ("rooms_per_unit", 0), ("max_s", 0.0)])
def test_a_bad_value_names_its_key(key: str, value: float) -> None:
    with pytest.raises(ValueError, match=key):
        rooms.Config(**{key: value})  # type: ignore[arg-type]
