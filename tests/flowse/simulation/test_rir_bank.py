"""Laws of the bank: it returns what was stored, the same responses give the same bytes, a cut file is refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from flowse.data.manifest import Utterance
from flowse.data.parquet import read_rows
from flowse.errors import DamagedFile
from flowse.refusal import Refusal
from flowse.simulation.rir_bank import (
    RirBank,
    RirRow,
    measured_row,
    merge_rows,
    read_measured,
    simulated_rows,
    write_bank,
)
from flowse.simulation.rirs import Rir, simulate_room
from tests.flowse.simulation.boxes import box

RATE = 24_000


def test_the_bank_returns_what_was_stored(tmp_path: Path) -> None:
    room = box(1.0)
    stored = simulated_rows("room-1", "train", room, simulate_room(room, 1, RATE), RATE)
    click = Rir(np.ones(7, np.float32), 3)
    stored.append((measured_row("hall", 0, "test", click, RATE, corpus="slr28", licence="Apache-2.0"), click))
    for name in ("a", "b"):
        rows = write_bank(tmp_path / f"{name}.npy", tmp_path / f"{name}.parquet", "a", stored)
    assert (tmp_path / "a.npy").read_bytes() == (tmp_path / "b.npy").read_bytes()
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()
    assert list(read_rows(tmp_path / "a.parquet", RirRow)) == rows
    bank = RirBank(tmp_path)
    for row, (_, rir) in zip(reversed(rows), reversed(stored), strict=True):
        back = bank.read(row)
        assert (back.delay, back.samples.tobytes()) == (rir.delay, rir.samples.tobytes())
    with pytest.raises(DamagedFile, match="cut off"):
        bank.read(dataclasses.replace(rows[-1], samples=8))


def test_a_measured_response_is_its_first_channel_at_the_rate_of_the_bank(tmp_path: Path) -> None:
    samples = np.zeros((4800, 2), np.float32)
    samples[100, 0] = samples[200, 1] = 0.5
    sf.write(tmp_path / "hall.wav", samples, 48_000)
    row = Utterance(utt_id="c/hall", corpus="c", kind="rir", path="hall.wav", split="dev", licence="CC0-1.0")
    described, rir = read_measured(tmp_path / "hall.wav", row, "hall", 3, sample_rate=RATE)
    assert (described.room_id, described.source, described.split, described.licence) == ("hall", 3, "dev", "CC0-1.0")
    assert (described.sample_rate, described.samples, described.delay) == (RATE, len(rir.samples), rir.delay)
    assert int(np.argmax(np.abs(rir.samples))) == rir.delay
    sf.write(tmp_path / "hall.wav", 0 * samples, 48_000)
    with pytest.raises(Refusal, match=r"silent: hall\.wav"):
        read_measured(tmp_path / "hall.wav", row, "hall", 3, sample_rate=RATE)
    with pytest.raises(Refusal, match="changed_since_ingest"):
        read_measured(tmp_path / "hall.wav", dataclasses.replace(row, content="0" * 32), "hall", 3, sample_rate=RATE)
    with pytest.raises(ValueError, match="no split"):
        read_measured(tmp_path / "hall.wav", dataclasses.replace(row, split=None), "hall", 3, sample_rate=RATE)


def test_the_index_holds_the_rows_of_all_units_and_knows_their_median_decay(tmp_path: Path) -> None:
    click = Rir(np.ones(7, np.float32), 3)
    row = measured_row("hall", 0, "test", click, RATE, corpus="c", licence="")
    units = {
        "a": [dataclasses.replace(row, rt60_s=decay_s) for decay_s in (0.1, 0.4)],
        "b": [dataclasses.replace(row, rt60_s=0.3), dataclasses.replace(row, split="train", rt60_s=None)],
    }
    parts = [tmp_path / f"{unit}.parquet" for unit in units]
    written = [
        stored
        for (unit, rows), part in zip(units.items(), parts, strict=True)
        for stored in write_bank(tmp_path / f"{unit}.npy", part, unit, [(described, click) for described in rows])
    ]
    assert merge_rows(parts, tmp_path / "index.parquet") == {"test": 0.3}
    assert list(read_rows(tmp_path / "index.parquet", RirRow)) == written
    (tmp_path / "index").mkdir()
    merge_rows(parts, tmp_path / "index" / "index.parquet", "..")
    for moved in read_rows(tmp_path / "index" / "index.parquet", RirRow):
        assert RirBank(tmp_path / "index").read(moved).samples.tobytes() == click.samples.tobytes()


def test_the_content_of_a_response_is_that_of_its_samples() -> None:
    def content(samples: np.ndarray, room: str) -> str:
        return measured_row(room, 0, "test", Rir(samples, 3), RATE, corpus="c", licence="").content

    click = np.ones(7, np.float32)
    assert content(click, "a") == content(click.copy(), "b") != content(2 * click, "a")


@pytest.mark.parametrize("damage", ["missing", "empty", "no array", "other numbers"])
def test_a_damaged_bank_is_one_line_that_names_the_file(damage: str, tmp_path: Path) -> None:
    path = tmp_path / "train-00000.npy"
    row = measured_row("r", 0, "train", Rir(np.ones(8, np.float32), 0), RATE, corpus="c", licence="")
    row = dataclasses.replace(row, unit="train-00000")
    if damage == "empty":
        path.touch()
    elif damage == "no array":
        path.write_bytes(b"\x80\x04K\x00.")
    elif damage == "other numbers":
        np.save(path, np.ones((2, 4)))
    with pytest.raises(DamagedFile, match=r"train-00000\.npy .*verify --mend"):
        RirBank(tmp_path).read(row)
