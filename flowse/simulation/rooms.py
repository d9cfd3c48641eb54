"""Rooms drawn at random: floor plan, absorption of the walls, and the places of microphone and sources."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from flowse.seeding import generator

SPEED_OF_SOUND = 343.0
"""In m/s, at 20 °C."""
BANDS_HZ = (125, 250, 500, 1000, 2000, 4000, 8000)
"""Centres of the octave bands in which walls absorb."""


@dataclass(frozen=True, kw_only=True)
class RoomDraw:
    """How rooms are drawn; every range uniformly, unless it says otherwise.

    Attributes:
        length_m: Length of one pair of walls, in metres.
        width_m: Length of the other pair.
        height_m: Height of the room.
        rt60_s: Time in seconds in which sound decays by 60 dB, at 1 kHz.
        distance_m: From source to microphone in metres, drawn log-uniformly.
        source_height_m: Height of microphone and sources above the floor.
        wall_m: Least distance of microphone and sources from a wall.
        sources: Sources in a room; each has an impulse response.
        polygonal: Share of rooms whose four walls meet at other than right angles.
        corner_shift: How far such a room's corners are moved inwards at most, as a share of the wall's length.
        scattering: Share of the reflected energy that a wall scatters.
        tilt: Absorption of the walls at 8 kHz over that at 125 Hz.
    """

    length_m: tuple[float, float] = (3.0, 10.0)
    width_m: tuple[float, float] = (2.5, 7.0)
    height_m: tuple[float, float] = (2.3, 4.0)
    rt60_s: tuple[float, float] = (0.15, 0.9)
    distance_m: tuple[float, float] = (0.3, 4.0)
    source_height_m: tuple[float, float] = (0.8, 1.9)
    wall_m: float = 0.3
    sources: int = 4
    polygonal: float = 0.25
    corner_shift: float = 0.2
    scattering: tuple[float, float] = (0.05, 0.3)
    tilt: tuple[float, float] = (1.0, 2.0)

    def __post_init__(self) -> None:
        """Refuse ranges that no room can be drawn from.

        Raises:
            ValueError: Naming the key and the value.
        """
        for name in ("length_m", "width_m", "height_m", "rt60_s", "distance_m", "source_height_m", "tilt"):
            low, high = getattr(self, name)
            if not 0 < low <= high:
                raise ValueError(f"{name}={[low, high]} must be two rising numbers above 0")
        if self.sources < 2:
            raise ValueError(f"sources={self.sources} must be at least 2: one for speech, one for noise")
        if not 0 <= self.polygonal <= 1:
            raise ValueError(f"polygonal={self.polygonal} must lie in 0..1")
        if not 0 <= self.corner_shift < 0.5:
            raise ValueError(f"corner_shift={self.corner_shift} must lie in 0..0.5, or walls would cross")


@dataclass(frozen=True, kw_only=True)
class Room:
    """A room as drawn: its walls, their absorption, and the places of microphone and sources.

    Attributes:
        shape: "shoebox" or "polygon".
        corners_m: Floor plan: (x, y) of every corner in metres, anticlockwise.
        height_m: Height of the room in metres.
        rt60_s: Decay time in seconds that `absorption` was computed for.
        absorption: Share of the energy that every surface absorbs, in each band of `BANDS_HZ`.
        scattering: Share of the reflected energy that is scattered.
        microphone_m: (x, y, z) in metres.
        sources_m: (x, y, z) of every source.
    """

    shape: Literal["shoebox", "polygon"]
    corners_m: tuple[tuple[float, float], ...]
    height_m: float
    rt60_s: float
    absorption: tuple[float, ...]
    scattering: float
    microphone_m: tuple[float, float, float]
    sources_m: tuple[tuple[float, float, float], ...]


def _area_and_perimeter(corners: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Return the area in m² and the perimeter in m of a floor plan (shoelace formula)."""
    area = perimeter = 0.0
    for (x, y), (next_x, next_y) in zip(corners, (*corners[1:], corners[0]), strict=True):
        area += (x * next_y - next_x * y) / 2
        perimeter += math.hypot(next_x - x, next_y - y)
    return area, perimeter


def _wall_distance(corners: Sequence[tuple[float, float]], x: float, y: float) -> float:
    """Return the distance to the nearest wall of a convex anticlockwise floor plan, negative outside."""
    distances = []
    for (ax, ay), (bx, by) in zip(corners, (*corners[1:], corners[0]), strict=True):
        distances.append(((bx - ax) * (y - ay) - (by - ay) * (x - ax)) / math.hypot(bx - ax, by - ay))
    return min(distances)


def draw_room(config: RoomDraw, seed: int) -> Room:
    """Draw one room; the same seed gives the same room.

    The absorption of the walls follows from Sabine's formula. A short decay in a large room would need walls that
    absorb more than all energy; then the whole room is drawn again, from the same generator.

    Raises:
        ValueError: A thousand draws gave no possible room; the ranges contradict each other.
    """
    rng = generator(seed)
    for _ in range(1000):
        room = _draw_once(config, rng)
        if room is not None:
            return room
    raise ValueError(
        f"no room can be drawn: rt60_s={list(config.rt60_s)} is too short for length_m="
        f"{list(config.length_m)}, width_m={list(config.width_m)}, height_m={list(config.height_m)}, or these for "
        f"distance_m={list(config.distance_m)} and wall_m={config.wall_m}"
    )


def _draw_once(config: RoomDraw, rng: np.random.Generator) -> Room | None:
    length, width = float(rng.uniform(*config.length_m)), float(rng.uniform(*config.width_m))
    height, rt60 = float(rng.uniform(*config.height_m)), float(rng.uniform(*config.rt60_s))
    polygonal = bool(rng.random() < config.polygonal)
    corners: tuple[tuple[float, float], ...] = ((0.0, 0.0), (length, 0.0), (length, width), (0.0, width))
    if polygonal:
        shifts = rng.uniform(0, config.corner_shift, (4, 2)) * (length, width)
        inwards = ((1, 1), (-1, 1), (-1, -1), (1, -1))
        corners = tuple(
            (float(x + sx * dx), float(y + sy * dy))
            for (x, y), (sx, sy), (dx, dy) in zip(corners, inwards, shifts, strict=True)
        )
    area, perimeter = _area_and_perimeter(corners)
    surface = 2 * area + perimeter * height
    mean = 24 * math.log(10) * area * height / (SPEED_OF_SOUND * surface * rt60)
    # The requested time holds at 1 kHz, the fourth of seven octaves.
    slope = float(rng.uniform(*config.tilt)) ** (1 / 6)
    absorption = tuple(mean * slope ** (band - 3) for band in range(len(BANDS_HZ)))
    scattering = float(rng.uniform(*config.scattering))
    if max(absorption) > 0.99:
        return None
    positions = _positions(config, rng, corners, height)
    if positions is None:
        return None
    return Room(
        shape="polygon" if polygonal else "shoebox",
        corners_m=corners,
        height_m=height,
        rt60_s=rt60,
        absorption=absorption,
        scattering=scattering,
        microphone_m=positions[0],
        sources_m=tuple(positions[1:]),
    )


def _positions(
    config: RoomDraw, rng: np.random.Generator, corners: Sequence[tuple[float, float]], height: float
) -> list[tuple[float, float, float]] | None:
    """Place the microphone, then every source at a drawn distance and angle; None if one of them finds no place."""
    top = min(config.source_height_m[1], height - config.wall_m)
    spread = max(max(corner) for corner in corners)
    placed: list[tuple[float, float, float]] = []
    log_near, log_far = map(math.log, config.distance_m)
    while len(placed) <= config.sources:
        for _ in range(200):
            z = float(rng.uniform(min(config.source_height_m[0], top), top))
            if not placed:
                x, y = (float(value) for value in rng.uniform(0, spread, 2))
            else:
                mic_x, mic_y, mic_z = placed[0]
                distance = math.exp(rng.uniform(log_near, log_far))
                angle = rng.uniform(0, 2 * math.pi)
                level = math.sqrt(max(distance**2 - (z - mic_z) ** 2, 0.0))
                if level == 0.0:
                    continue
                x, y = mic_x + level * math.cos(angle), mic_y + level * math.sin(angle)
            if _wall_distance(corners, x, y) >= config.wall_m:
                placed.append((x, y, z))
                break
        else:
            return None
    return placed
