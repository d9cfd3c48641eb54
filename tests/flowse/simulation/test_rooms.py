"""Laws of rooms: the acoustics follow the formulas, the direct path is where it is said to be, seeds decide."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest

from flowse.data.parquet import read_rows
from flowse.seeding import generator
from flowse.simulation.rooms import (
    LEAD,
    SPEED_OF_SOUND,
    Rir,
    RirBank,
    RirRow,
    Room,
    RoomDraw,
    direct_to_reverberant_db,
    draw_room,
    early_part,
    measured_rir,
    measured_row,
    rt60,
    simulate_room,
    simulated_rows,
    write_bank,
)

RATE = 24_000
SMALL = RoomDraw(rt60_s=(0.2, 0.3), length_m=(3.0, 4.0), width_m=(2.5, 3.0), height_m=(2.4, 2.6), sources=2)


def _box(distance_m: float, shape: str = "shoebox") -> Room:
    """A room of 5 × 4 × 3 m with a decay of 0.3 s."""
    corners = ((0.0, 0.0), (5.0, 0.0), (5.0, 4.0), (0.0, 4.0))
    mean = 24 * math.log(10) * 60 / (SPEED_OF_SOUND * 94 * 0.3)
    return Room(
        shape="shoebox" if shape == "shoebox" else "polygon",
        corners_m=corners,
        height_m=3.0,
        rt60_s=0.3,
        absorption=(mean,) * 7,
        scattering=0.2,
        microphone_m=(1.2, 1.4, 1.3),
        sources_m=((1.2 + distance_m * 0.8, 1.4 + distance_m * 0.6, 1.3),),
    )


def test_the_same_seed_gives_the_same_bytes() -> None:
    room = draw_room(SMALL, 5)
    assert draw_room(SMALL, 5) == room
    first, again = simulate_room(room, 9, RATE), simulate_room(room, 9, RATE)
    other = simulate_room(room, 10, RATE)
    for one, two, three in zip(first, again, other, strict=True):
        assert one.samples.tobytes() == two.samples.tobytes()
        assert one.samples.tobytes() != three.samples.tobytes()


@pytest.mark.parametrize("seed", range(30))
def test_everything_stands_inside_and_at_its_distance(seed: int) -> None:
    config = RoomDraw(polygonal=0.5)
    room = draw_room(config, seed)
    for x, y, z in (room.microphone_m, *room.sources_m):
        assert config.wall_m <= z <= room.height_m - config.wall_m + 1e-9
        for (ax, ay), (bx, by) in zip(room.corners_m, (*room.corners_m[1:], room.corners_m[0]), strict=True):
            normal = ((bx - ax) * (y - ay) - (by - ay) * (x - ax)) / math.hypot(bx - ax, by - ay)
            assert normal >= config.wall_m - 1e-9
    for source in room.sources_m:
        low, high = config.distance_m
        assert low - 1e-9 <= math.dist(source, room.microphone_m) <= high + 1e-9
    assert 0 < min(room.absorption) <= max(room.absorption) <= 0.99


def test_an_impossible_room_is_a_clear_error_and_an_improbable_one_is_redrawn() -> None:
    hall = RoomDraw(length_m=(30.0, 30.0), width_m=(30.0, 30.0), height_m=(20.0, 20.0), rt60_s=(0.1, 0.1))
    with pytest.raises(ValueError, match="rt60_s"):
        draw_room(hall, 0)
    mostly_impossible = dataclasses.replace(hall, rt60_s=(0.1, 3.0))
    assert draw_room(mostly_impossible, 0) == draw_room(mostly_impossible, 0)


@pytest.mark.parametrize("shape", ["shoebox", "polygon"])
@pytest.mark.parametrize("distance_m", [0.5, 2.0])
def test_decay_and_direct_path_follow_the_formulas(shape: str, distance_m: float) -> None:
    """Measured RT60 is the requested one within 20 %; direct over reverberant energy is A / (16 π d²) within 3 dB."""
    room = _box(distance_m, shape)
    (rir,) = simulate_room(room, 1, RATE)
    assert rt60(rir.samples, RATE) == pytest.approx(0.3, rel=0.2)
    absorbing_m2 = 94 * room.absorption[0]
    expected_db = 10 * math.log10(absorbing_m2 / (16 * math.pi * distance_m**2))
    assert direct_to_reverberant_db(rir, RATE) == pytest.approx(expected_db, abs=3)
    assert rir.delay == LEAD
    # The direct path has gain 1, spread over neighbours when it arrives between two samples.
    assert 0.6 < rir.samples[rir.delay - 1 : rir.delay + 2].max() < 1.2


def test_rt60_of_an_exponential_decay_is_exact() -> None:
    time_s = np.arange(RATE) / RATE
    noise = generator(3).standard_normal(RATE)
    decaying = (noise * 10 ** (-3 * time_s / 0.5)).astype(np.float32)
    assert rt60(decaying, RATE) == pytest.approx(0.5, rel=0.03)
    assert rt60(np.zeros(10, np.float32), RATE) is None


def test_a_measured_response_is_brought_to_gain_one() -> None:
    """Delay, polarity and level of the recording do not matter."""
    samples = np.zeros(20_000, np.float32)
    samples[1000], samples[1500] = 1.0, 0.25
    for gain in (1.0, -1.0, 0.01):
        for shift in (0, 333):
            rir = measured_rir(np.roll(samples, shift) * np.float32(gain), RATE)
            assert rir.delay == LEAD
            assert rir.samples[rir.delay] == pytest.approx(1.0)
            assert rir.samples[rir.delay + 500] == pytest.approx(0.25, rel=1e-3) or len(rir.samples) < 600
    with pytest.raises(ValueError, match="silent"):
        measured_rir(np.zeros(100, np.float32), RATE)


def test_early_part_is_the_response_up_to_its_end_and_nothing_after() -> None:
    rir = Rir(generator(0).standard_normal(10_000).astype(np.float32), 40)
    early = early_part(rir, 0.05, RATE)
    np.testing.assert_array_equal(early.samples[: 40 + 1200], rir.samples[: 40 + 1200])
    assert len(early.samples) == 40 + 1200 + 120
    assert (early.delay, early_part(rir, 10.0, RATE).samples.tobytes()) == (rir.delay, rir.samples.tobytes())


def test_the_bank_returns_what_was_stored(tmp_path: Path) -> None:
    room = _box(1.0)
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


@pytest.mark.parametrize(
    ("key", "value"), [("rt60_s", (0.5, 0.1)), ("sources", 1), ("polygonal", 2.0), ("corner_shift", 0.5)]
)
def test_a_bad_range_names_its_key(key: str, value: object) -> None:
    with pytest.raises(ValueError, match=key):
        RoomDraw(**{key: value})  # type: ignore[arg-type]
