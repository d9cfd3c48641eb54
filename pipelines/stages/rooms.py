"""Fill the bank of room impulse responses, from which simulate takes its rooms.

Reads nothing but the config for simulated rooms, and from ingest the measured responses (kind "rir").
Writes a unit's responses end to end as `.npy`, their rows as `.parquet`, and `index.parquet` over all units.
Drops measured responses that are silent.
Fails measured responses that cannot be decoded.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from flowse.audio.waveform import read, resample
from flowse.data.manifest import SPLITS, Reject, Split, Utterance
from flowse.data.parquet import read_rows, schema_of
from flowse.errors import UserError
from flowse.refusal import Refusal
from flowse.seeding import derive_seed
from flowse.simulation.rir_bank import RirRow, measured_row, simulated_rows, write_bank
from flowse.simulation.rirs import Rir, measured_rir, simulate_room
from flowse.simulation.rooms import RoomDraw, draw_room
from pipelines.engine.accounts import StageReport, Tally, UnitReport
from pipelines.engine.stage import StageContext, Unit, UnitOutput, batched

NAME = "rooms"
READS: tuple[str, ...] = ("ingest",)
REVISION = 1


@dataclass(frozen=True, kw_only=True)
class Config:
    """How many rooms, and what they look like.

    Attributes:
        train_rooms: Simulated rooms for training.
        dev_rooms: For development; no room serves two splits.
        test_rooms: For testing.
        draw: What simulated rooms look like.
        image_order: Reflections computed exactly; later ones are ray-traced.
        max_s: Longest response.
        sample_rate: In Hz; must be simulate's.
        rooms_per_unit: Simulated rooms in one unit of work.
        responses_per_unit: Measured responses in one unit of work, about.
    """

    train_rooms: int = 1000
    dev_rooms: int = 50
    test_rooms: int = 50
    draw: RoomDraw = field(default_factory=RoomDraw)
    image_order: int = 3
    max_s: float = 2.0
    sample_rate: int = 24_000
    rooms_per_unit: int = 8
    responses_per_unit: int = 200

    def __post_init__(self) -> None:
        for name, least in (
            ("train_rooms", 0),
            ("dev_rooms", 0),
            ("test_rooms", 0),
            ("image_order", 0),
            ("sample_rate", 8000),
            ("rooms_per_unit", 1),
            ("responses_per_unit", 1),
        ):
            if getattr(self, name) < least:
                raise ValueError(f"{name}: {getattr(self, name)} must be at least {least}")
        if self.max_s <= 0:
            raise ValueError(f"max_s: {self.max_s} must be above 0")

    def rooms(self, split: Split) -> int:
        """Return how many rooms are simulated for a split."""
        return {"train": self.train_rooms, "dev": self.dev_rooms, "test": self.test_rooms}[split]


@dataclass(frozen=True)
class SimulatedRooms:
    """A unit of simulated rooms: their numbers in their split."""

    unit: str
    split: Split
    numbers: tuple[int, ...]


@dataclass(frozen=True)
class MeasuredResponses:
    """A unit of measured responses, each with its room and its number there."""

    unit: str
    rows: tuple[tuple[Utterance, str, int], ...]


class Worker:
    """Simulates rooms, or reads measured responses."""

    def __init__(self, config: Config, seed: int, roots: Mapping[str, Path]) -> None:
        self._config, self._seed, self._roots = config, seed, roots

    def __call__(self, payload: SimulatedRooms | MeasuredResponses, output: UnitOutput) -> UnitReport:
        """Write one part of the bank."""
        if isinstance(payload, SimulatedRooms):
            responses = [pair for number in payload.numbers for pair in self._simulate(payload.split, number)]
            lengths_s = [len(rir.samples) / self._config.sample_rate for _, rir in responses]
            kept = taken = Tally.of(lengths_s)
            rejects: list[Reject] = []
        else:
            responses, rejects = [], []
            for row, room_id, source in payload.rows:
                try:
                    responses.append(self._read(row, room_id, source))
                except Refusal as error:
                    rejects.append(Reject.of(row, NAME, error))
            refused = {reject.utt_id for reject in rejects}
            kept = Tally.of(row.duration_s for row, _, _ in payload.rows if row.utt_id not in refused)
            taken = Tally.of(row.duration_s for row, _, _ in payload.rows)
        rows = write_bank(output.path(".npy"), output.path(".parquet"), payload.unit, responses)
        rooms = len({row.room_id for row in rows})
        return UnitReport(kept, tuple(rejects), {"rooms": rooms, "responses": len(rows)}, taken)

    def _simulate(self, split: Split, number: int) -> list[tuple[RirRow, Rir]]:
        config = self._config
        seed = derive_seed(self._seed, NAME, split, number)
        room = draw_room(config.draw, seed)
        rirs = simulate_room(room, derive_seed(seed, "rays"), config.sample_rate, config.image_order, config.max_s)
        return simulated_rows(f"simulated/{split}-{number:06d}", split, room, rirs, config.sample_rate)

    def _read(self, row: Utterance, room_id: str, source: int) -> tuple[RirRow, Rir]:
        """Read a measured response; of several microphones the first, for their mean would be a comb filter.

        Raises:
            Refusal: It cannot be read, or is silent.
        """
        rate = self._config.sample_rate
        channels, file_rate = read(
            self._roots[row.corpus] / row.path, offset_s=row.offset_s, duration_s=row.duration_s or None
        )
        response = resample(np.ascontiguousarray(channels[0]), file_rate, rate)
        try:
            rir = measured_rir(response, rate, self._config.max_s)
        except ValueError as error:
            raise Refusal("silent", f"{row.path}: {error}") from None
        assert row.split is not None, "run() refuses rows without a split"
        return measured_row(room_id, source, row.split, rir, rate, corpus=row.corpus, licence=row.licence), rir


def _simulated_units(config: Config) -> Iterator[Unit[SimulatedRooms]]:
    for split in SPLITS:
        for number, numbers in enumerate(batched(range(config.rooms(split)), config.rooms_per_unit)):
            name = f"{split}-{number:05d}"
            # How long a response is, only its simulation tells.
            taken = Tally(len(numbers) * config.draw.sources, 0.0)
            yield Unit(name, SimulatedRooms(name, split, tuple(numbers)), taken)


def _measured_units(config: Config, parts: Sequence[Path]) -> Iterator[Unit[MeasuredResponses]]:
    """Number the responses of every room, and batch whole rooms."""
    rooms: dict[str, list[Utterance]] = {}
    for row in read_rows(parts, Utterance):
        if row.kind == "rir":
            if row.split is None:
                raise UserError(f"{NAME}: {row.utt_id} has no split; run ingest again with --force")
            rooms.setdefault(f"{row.corpus}/{row.speaker or row.path}", []).append(row)
    batch: list[tuple[Utterance, str, int]] = []
    number = 0
    for position, room_id in enumerate(sorted(rooms)):
        rows = sorted(rooms[room_id], key=lambda row: row.utt_id)
        batch += [(row, room_id, source) for source, row in enumerate(rows)]
        if len(batch) >= config.responses_per_unit or position == len(rooms) - 1:
            name = f"measured-{number:05d}"
            yield Unit(name, MeasuredResponses(name, tuple(batch)), Tally.of(row.duration_s for row, _, _ in batch))
            batch, number = [], number + 1


def run(config: Config, context: StageContext) -> StageReport:
    """Simulate the rooms, read the measured responses, and join both to one bank."""
    try:
        draw_room(config.draw, context.seed)
    except ValueError as error:
        raise UserError(f"{NAME}.draw: {error}; widen a range") from None
    units: list[Unit[SimulatedRooms | MeasuredResponses]] = [
        *_simulated_units(config),
        *_measured_units(config, context.inputs["ingest"].parts(".parquet")),
    ]
    report = context.map_units(Worker, (config, context.seed, dict(context.roots)), units)
    decays: dict[str, list[float]] = {split: [] for split in SPLITS}
    with (
        context.write("index.parquet") as path,
        pq.ParquetWriter(path, schema_of(RirRow), compression="zstd") as writer,
    ):
        for part in context.parts(".parquet"):
            table = pq.read_table(part, schema=schema_of(RirRow))
            writer.write_table(table)
            for split, decay_s in zip(table["split"].to_pylist(), table["rt60_s"].to_pylist(), strict=True):
                if decay_s is not None:
                    decays[split].append(decay_s)
    medians = {f"rt60_median_s_{split}": float(np.median(values)) for split, values in decays.items() if values}
    return dataclasses.replace(report, metrics={**report.metrics, **medians})
