"""Laws of impulse responses: the acoustics follow the formulas, and the direct path stands at its delay with gain 1."""

from __future__ import annotations

import math

import numpy as np
import pytest

from flowse.seeding import generator
from flowse.simulation.rirs import (
    LEAD,
    STEP,
    Rir,
    direct_to_reverberant_db,
    early_part,
    measured_rir,
    rt60,
    simulate_room,
)
from tests.flowse.simulation.boxes import box

RATE = 24_000


def test_the_same_seed_gives_the_same_bytes() -> None:
    room = box(1.0)
    first, again, other = (simulate_room(room, seed, RATE) for seed in (9, 9, 10))
    assert [rir.samples.tobytes() for rir in first] == [rir.samples.tobytes() for rir in again]
    assert [rir.samples.tobytes() for rir in first] != [rir.samples.tobytes() for rir in other]


@pytest.mark.parametrize("shape", ["shoebox", "polygon"])
@pytest.mark.parametrize("distance_m", [0.5, 2.0])
def test_decay_and_direct_path_follow_the_formulas(shape: str, distance_m: float) -> None:
    """Measured RT60 is the requested one within 20 %; direct over reverberant energy is A / (16 π d²) within 3 dB."""
    room = box(distance_m, shape)
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


def test_responses_are_rounded_when_they_are_made() -> None:
    """What is rounded when it is made is the same on every processor."""
    time_s = np.arange(RATE) / RATE
    recorded = (generator(1).standard_normal(RATE) * 10 ** (-3 * time_s / 0.3)).astype(np.float32)
    for rir in (*simulate_room(box(1.0), 1, RATE), measured_rir(recorded, RATE)):
        steps = rir.samples.astype(np.float64) / STEP
        np.testing.assert_array_equal(steps, np.rint(steps))


@pytest.mark.parametrize("rt60_s", [0.2, 0.5, 1.0])
def test_rt60_is_the_least_squares_line_of_the_decay(rt60_s: float) -> None:
    time_s = np.arange(2 * RATE) / RATE
    decaying = (10 ** (-3 * time_s / rt60_s)).astype(np.float32)
    assert rt60(decaying, RATE) == pytest.approx(rt60_s, rel=1e-3)
