"""Rooms and their impulse responses: drawn, simulated or measured, and kept in a bank."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import pyroomacoustics as pra
from jaxtyping import Float32

from flowse.data.manifest import Split
from flowse.data.parquet import write_rows
from flowse.seeding import generator

SPEED_OF_SOUND = 343.0
BANDS_HZ = (125, 250, 500, 1000, 2000, 4000, 8000)
LEAD = 40
"""Samples kept before the direct path: half the length of the simulator's fractional-delay filter."""
_FADE_S = 0.005


@dataclass(frozen=True, kw_only=True)
class RoomDraw:
    """What rooms look like; every range is drawn from uniformly unless it says otherwise.

    Attributes:
        length_m: Of the longer pair of walls.
        width_m: Of the shorter pair.
        height_m: Of the room.
        rt60_s: Time in which sound decays by 60 dB, at 1 kHz.
        distance_m: From source to microphone, drawn log-uniformly.
        source_height_m: Of microphone and sources above the floor.
        wall_m: Least distance of anything from a wall.
        sources: Positions a room; each has an impulse response.
        polygonal: Share of rooms with four walls that meet at other than right angles.
        corner_shift: How far such a room's corners are moved inwards, at most, as a share of the wall.
        scattering: Share of energy that a wall scatters.
        tilt: How much more walls absorb at 8 kHz than at 125 Hz, as a factor.
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
    """A room as drawn: its walls, what they absorb, and who stands where.

    Attributes:
        shape: "shoebox" or "polygon".
        corners_m: Floor plan, anticlockwise (x, y).
        height_m: Of the room.
        rt60_s: Decay time that `absorption` was computed for.
        absorption: Energy absorbed by every surface, by octave band of `BANDS_HZ`.
        scattering: Share of the reflected energy that is scattered.
        microphone_m: (x, y, z).
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


@dataclass(frozen=True)
class Rir:
    """A room impulse response, scaled so that the direct path has gain 1.

    Attributes:
        samples: The response.
        delay: Sample at which the direct path arrives.
    """

    samples: Float32[np.ndarray, " N"]
    delay: int


@dataclass(frozen=True, kw_only=True)
class RirRow:
    """One impulse response in the bank.

    Attributes:
        room_id: Room it belongs to; splits must not share it.
        source: Number of the source in its room, from 0.
        split: Part of the data that may use the room.
        origin: Where it comes from.
        corpus: Corpus of a measured response; empty if simulated.
        licence: Of the corpus.
        shape: Floor plan: "shoebox", "polygon", or empty if unknown.
        corners_m: Floor plan, x and y in turn; empty if unknown.
        height_m: Of the room; None if unknown.
        microphone_m: x, y, z; empty if unknown.
        source_m: x, y, z; empty if unknown.
        distance_m: From source to microphone; None if unknown.
        rt60_requested_s: What the walls were made for; None if measured.
        rt60_s: Measured on the response; None if it is too short to tell.
        direct_to_reverberant_db: Energy up to 2.5 ms after the direct path over the rest.
        sample_rate: In Hz.
        unit: Stem of the file that holds it.
        offset: First value in that file.
        samples: Number of values.
        delay: Sample of the direct path.
    """

    room_id: str
    source: int
    split: Split
    origin: Literal["simulated", "measured"]
    corpus: str
    licence: str
    shape: str
    corners_m: tuple[float, ...]
    height_m: float | None
    microphone_m: tuple[float, ...]
    source_m: tuple[float, ...]
    distance_m: float | None
    rt60_requested_s: float | None
    rt60_s: float | None
    direct_to_reverberant_db: float
    sample_rate: int
    unit: str
    offset: int
    samples: int
    delay: int


def _floor(corners: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Return area and perimeter of a floor plan (shoelace formula)."""
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
    """Draw one room.

    The walls' absorption follows from Sabine's formula. A short decay in a large room would need walls that
    absorb more than everything; then all is drawn again, from the same generator, so that the seed decides.

    Raises:
        ValueError: A thousand draws gave no possible room; the ranges contradict each other.
    """
    rng = generator(seed)
    for _ in range(1000):
        room = _try_room(config, rng)
        if room is not None:
            return room
    raise ValueError(
        f"no room can be drawn: rt60_s={list(config.rt60_s)} is too short for length_m="
        f"{list(config.length_m)}, width_m={list(config.width_m)}, height_m={list(config.height_m)}, or these for "
        f"distance_m={list(config.distance_m)} and wall_m={config.wall_m}"
    )


def _try_room(config: RoomDraw, rng: np.random.Generator) -> Room | None:
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
    area, perimeter = _floor(corners)
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
    """Place the microphone, then every source at its distance in some direction; None if one has no place."""
    top = min(config.source_height_m[1], height - config.wall_m)
    spread = max(max(corner) for corner in corners)
    placed: list[tuple[float, float, float]] = []
    log_near, log_far = np.log(config.distance_m)
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


def simulate_room(room: Room, seed: int, sample_rate: int, image_order: int = 3, max_s: float = 2.0) -> list[Rir]:
    """Compute the impulse response from every source to the microphone.

    Early reflections by image sources up to `image_order`, the rest by ray tracing (pyroomacoustics' hybrid
    simulator, Schröder 2011), with air absorption.

    Args:
        room: As drawn.
        seed: Of the ray tracer.
        sample_rate: In Hz.
        image_order: Reflections computed exactly.
        max_s: Responses are cut after this long, and earlier where they have decayed by 60 dB.
    """
    # The simulator keeps one random state a process, and its results depend on the number of its threads.
    pra.constants.set("num_threads", 1)
    pra.random.seed(seed)
    material = pra.Material(
        energy_absorption={"coeffs": list(room.absorption), "center_freqs": list(BANDS_HZ)},
        scattering=room.scattering,
    )
    options = {
        "fs": sample_rate,
        "materials": material,
        "max_order": image_order,
        "ray_tracing": True,
        "air_absorption": True,
    }
    if room.shape == "shoebox":
        simulated = pra.ShoeBox([*room.corners_m[2], room.height_m], **options)
    else:
        simulated = pra.Room.from_corners(np.array(room.corners_m).T, **options)
        simulated.extrude(room.height_m, materials=material)
        # The number of rays was chosen by the volume, which was an area until now.
        simulated.set_ray_tracing()
    simulated.add_microphone(list(room.microphone_m))
    for source in room.sources_m:
        simulated.add_source(list(source))
    simulated.compute_rir()
    rirs = []
    for position, samples in zip(room.sources_m, simulated.rir[0], strict=True):
        distance = math.dist(position, room.microphone_m)
        arrival = round(distance / SPEED_OF_SOUND * sample_rate) + pra.constants.get("frac_delay_length") // 2
        # The simulator's direct path has amplitude 1 / distance.
        rirs.append(_trimmed(np.asarray(samples) * distance, arrival, sample_rate, max_s))
    return rirs


def measured_rir(samples: Float32[np.ndarray, " N"], sample_rate: int, max_s: float = 2.0) -> Rir:
    """Bring a measured response into the bank's form: direct path found, positive, at gain 1; tail cut.

    The direct path is taken to be the largest peak, and its gain the root of the energy within 1 ms of it.

    Raises:
        ValueError: The recording is silent.
    """
    arrival = int(np.argmax(np.abs(samples)))
    near = sample_rate // 1000
    gain = math.sqrt(float(np.sum(samples[max(arrival - near, 0) : arrival + near + 1].astype(np.float64) ** 2)))
    if not gain > 0 or not math.isfinite(gain):
        raise ValueError("the impulse response is silent or not finite")
    return _trimmed(samples.astype(np.float64) / math.copysign(gain, samples[arrival]), arrival, sample_rate, max_s)


def _trimmed(samples: np.ndarray, arrival: int, sample_rate: int, max_s: float) -> Rir:
    """Drop the travel time before the direct path, and the tail that nobody hears."""
    begin = max(arrival - LEAD, 0)
    kept = samples[begin : begin + round(max_s * sample_rate)]
    decay = np.cumsum(kept[::-1] ** 2)[::-1]
    audible = int(np.count_nonzero(decay > decay[0] * 1e-6))
    # Without a ramp the cut itself would be heard as a click at the end of long decays.
    fade = min(round(_FADE_S * sample_rate), audible)
    kept = kept[:audible].copy()
    kept[audible - fade :] *= np.linspace(1, 0, fade, endpoint=False)
    return Rir(kept.astype(np.float32), arrival - begin)


def early_part(rir: Rir, early_s: float, sample_rate: int) -> Rir:
    """Return the direct path and the reflections of the first `early_s` seconds, faded out over 5 ms more."""
    end = min(rir.delay + round(early_s * sample_rate), len(rir.samples))
    fade = min(round(_FADE_S * sample_rate), len(rir.samples) - end)
    kept = rir.samples[: end + fade].copy()
    kept[end:] *= np.linspace(1, 0, fade, endpoint=False, dtype=np.float32)
    return Rir(kept, rir.delay)


def rt60(samples: Float32[np.ndarray, " N"], sample_rate: int) -> float | None:
    """Estimate the reverberation time in seconds: T20, from −5 to −25 dB of Schroeder's curve (ISO 3382).

    Returns:
        None if the response does not decay that far.
    """
    energy = np.cumsum(samples[::-1].astype(np.float64) ** 2)[::-1]
    if len(energy) == 0 or energy[0] <= 0:
        return None
    decay_db = 10 * np.log10(np.maximum(energy / energy[0], 1e-12))
    begin, end = int(np.argmax(decay_db <= -5)), int(np.argmax(decay_db <= -25))
    if end - begin < 2:
        return None
    slope = np.polyfit(np.arange(begin, end) / sample_rate, decay_db[begin:end], 1)[0]
    return float(-60 / slope)


def direct_to_reverberant_db(rir: Rir, sample_rate: int) -> float:
    """Energy up to 2.5 ms after the direct path over the energy after that, in dB; at most 100."""
    end = rir.delay + round(0.0025 * sample_rate) + 1
    energy = rir.samples.astype(np.float64) ** 2
    direct, rest = float(energy[:end].sum()), float(energy[end:].sum())
    return 10 * math.log10(direct / max(rest, direct * 1e-10))


def simulated_rows(
    room_id: str, split: Split, room: Room, rirs: Sequence[Rir], sample_rate: int
) -> list[tuple[RirRow, Rir]]:
    """Describe the responses of a simulated room; place in the bank still open."""
    return [
        (
            RirRow(
                room_id=room_id,
                source=number,
                split=split,
                origin="simulated",
                corpus="",
                licence="",
                shape=room.shape,
                corners_m=tuple(value for corner in room.corners_m for value in corner),
                height_m=room.height_m,
                microphone_m=room.microphone_m,
                source_m=position,
                distance_m=math.dist(position, room.microphone_m),
                rt60_requested_s=room.rt60_s,
                rt60_s=rt60(rir.samples, sample_rate),
                direct_to_reverberant_db=direct_to_reverberant_db(rir, sample_rate),
                sample_rate=sample_rate,
                unit="",
                offset=0,
                samples=len(rir.samples),
                delay=rir.delay,
            ),
            rir,
        )
        for number, (position, rir) in enumerate(zip(room.sources_m, rirs, strict=True))
    ]


def measured_row(
    room_id: str, source: int, split: Split, rir: Rir, sample_rate: int, *, corpus: str, licence: str
) -> RirRow:
    """Describe a measured response, of whose room nothing is known; place in the bank still open."""
    return RirRow(
        room_id=room_id,
        source=source,
        split=split,
        origin="measured",
        corpus=corpus,
        licence=licence,
        shape="",
        corners_m=(),
        height_m=None,
        microphone_m=(),
        source_m=(),
        distance_m=None,
        rt60_requested_s=None,
        rt60_s=rt60(rir.samples, sample_rate),
        direct_to_reverberant_db=direct_to_reverberant_db(rir, sample_rate),
        sample_rate=sample_rate,
        unit="",
        offset=0,
        samples=len(rir.samples),
        delay=rir.delay,
    )


def write_bank(samples_path: Path, rows_path: Path, unit: str, responses: Iterable[tuple[RirRow, Rir]]) -> list[RirRow]:
    """Write responses end to end as one float32 `.npy` file, and their rows beside it; return those rows."""
    rows, samples, offset = [], [], 0
    for row, rir in responses:
        rows.append(replace(row, unit=unit, offset=offset))
        samples.append(rir.samples)
        offset += len(rir.samples)
    with samples_path.open("wb") as file:
        np.save(file, np.concatenate(samples) if samples else np.zeros(0, np.float32))
    write_rows(rows_path, RirRow, rows)
    return rows


class RirBank:
    """Reads impulse responses by their rows; files are mapped, not loaded."""

    def __init__(self, folder: Path, open_files: int = 64) -> None:
        """Remember where the bank is.

        Args:
            folder: Holds `<unit>.npy`.
            open_files: At most this many files stay mapped.
        """
        self._folder = folder
        self._mapped: OrderedDict[str, np.ndarray] = OrderedDict()
        self._open_files = open_files

    def read(self, row: RirRow) -> Rir:
        """Read one response.

        Raises:
            ValueError: The file is shorter than the row says.
        """
        values = self._mapped.pop(row.unit, None)
        if values is None:
            values = np.load(self._folder / f"{row.unit}.npy", mmap_mode="r")
        self._mapped[row.unit] = values
        if len(self._mapped) > self._open_files:
            self._mapped.popitem(last=False)
        samples = np.array(values[row.offset : row.offset + row.samples])
        if len(samples) != row.samples:
            raise ValueError(f"{self._folder / row.unit}.npy is cut off: {row.room_id} needs {row.samples} values")
        return Rir(samples, row.delay)
