"""Laws of the bank: it returns what was stored, the same responses give the same bytes, a cut file is refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from flowse.data.parquet import read_rows
from flowse.simulation.rir_bank import RirBank, RirRow, measured_row, simulated_rows, write_bank
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
    with pytest.raises(ValueError, match="cut off"):
        bank.read(dataclasses.replace(rows[-1], samples=8))
