"""Laws of drawn rooms: the seed decides, everything stands inside, and impossible ranges are named."""

from __future__ import annotations

import dataclasses
import math

import pytest

from flowse.simulation.rooms import RoomDraw, draw_room

SMALL = RoomDraw(rt60_s=(0.2, 0.3), length_m=(3.0, 4.0), width_m=(2.5, 3.0), height_m=(2.4, 2.6), sources=2)


def test_the_same_seed_draws_the_same_room() -> None:
    assert draw_room(SMALL, 5) == draw_room(SMALL, 5)
    assert draw_room(SMALL, 5) != draw_room(SMALL, 6)


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


@pytest.mark.parametrize(
    ("key", "value"), [("rt60_s", (0.5, 0.1)), ("sources", 1), ("polygonal", 2.0), ("corner_shift", 0.5)]
)
def test_a_bad_range_names_its_key(key: str, value: object) -> None:
    with pytest.raises(ValueError, match=key):
        RoomDraw(**{key: value})  # type: ignore[arg-type]
