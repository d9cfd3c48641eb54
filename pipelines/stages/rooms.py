"""Fill the bank of room impulse responses, from which simulate takes its rooms.

Reads measured responses (kind "rir") from ingest; simulated rooms need only the config.
Writes the samples of a unit's responses as `.npy` and their rows as `.parquet`, then `index.parquet` over all units.
Drops measured responses that are silent.
Fails measured responses that cannot be decoded.

A unit of simulated rooms is known by their numbers and by how they are drawn, so more rooms make none again but those
of the last unit that was not full; a unit of measured responses holds whole rooms of one corpus.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from flowse.data.manifest import SPLITS, Reject, Split, Utterance
from flowse.errors import UserError
from flowse.refusal import Refusal, refusing
from flowse.seeding import derive_seed
from flowse.simulation.rooms import RoomDraw, draw_room
from pipelines.engine.accounts import StageReport, Tally, UnitReport
from pipelines.engine.fingerprint import content_of
from pipelines.engine.stage import StageContext, Unit, UnitOutput, batched

if TYPE_CHECKING:
    from flowse.simulation.rir_bank import RirRow
    from flowse.simulation.rirs import Rir

NAME = "rooms"
READS: tuple[str, ...] = ("ingest",)
REVISION = 2


@dataclass(frozen=True, kw_only=True)
class Config:
    """How many rooms are simulated, and how they are drawn.

    Attributes:
        train_rooms: Simulated rooms of split train; no room is in two splits.
        dev_rooms: Simulated rooms of split dev.
        test_rooms: Simulated rooms of split test.
        draw: How simulated rooms are drawn.
        image_order: Highest order of the reflections that are computed exactly; later ones are ray-traced.
        max_s: Longest response in seconds.
        sample_rate: In Hz; it must be that of simulate.
        rooms_per_unit: Simulated rooms of one unit of work.
        responses_per_unit: Most measured responses of one unit of work, unless one room has more.
    """

    # These decide which rooms there are and how they are drawn: the content of a unit of simulated rooms holds both.
    train_rooms: int = field(default=1000, metadata={"unit": False})
    dev_rooms: int = field(default=50, metadata={"unit": False})
    test_rooms: int = field(default=50, metadata={"unit": False})
    draw: RoomDraw = field(default_factory=RoomDraw, metadata={"unit": False})
    image_order: int = field(default=3, metadata={"unit": False})
    max_s: float = 2.0
    sample_rate: int = 24_000
    rooms_per_unit: int = field(default=8, metadata={"unit": False})
    responses_per_unit: int = field(default=200, metadata={"unit": False})

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
    """Payload of a unit of simulated rooms.

    Attributes:
        split: Their split.
        numbers: Their numbers in it.
    """

    split: Split
    numbers: tuple[int, ...]


@dataclass(frozen=True)
class MeasuredResponses:
    """Payload of a unit of measured responses.

    Attributes:
        responses: The row, the room and the number of the source of each.
        refused: Responses that are not to be read, by their place: reason and detail of each.
    """

    responses: tuple[tuple[Utterance, str, int], ...]
    refused: Mapping[int, tuple[str, str]] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        """Number of responses."""
        return len(self.responses)

    def refuse(self, rows: Mapping[int, tuple[str, str]]) -> MeasuredResponses:
        """Return the unit without some of its responses, each of which becomes a reject row."""
        return dataclasses.replace(self, refused={**self.refused, **rows})


class Worker:
    """Simulates rooms, or reads measured responses."""

    def __init__(self, config: Config, seed: int, roots: Mapping[str, Path]) -> None:
        self._config, self._seed, self._roots = config, seed, roots

    def __call__(self, payload: SimulatedRooms | MeasuredResponses, output: UnitOutput) -> UnitReport:
        """Write one part of the bank."""
        from flowse.simulation.rir_bank import write_bank

        rejects: list[Reject] = []
        if isinstance(payload, SimulatedRooms):
            responses = []
            for number in payload.numbers:
                for pair in self._simulate(payload.split, number):
                    responses.append(pair)
                    output.count(len(pair[1].samples) / self._config.sample_rate)
            kept = taken = Tally.of(len(rir.samples) / self._config.sample_rate for _, rir in responses)
        else:
            responses, rejects = self._read(payload)
            refused = {reject.utt_id for reject in rejects}
            kept = Tally.of(row.duration_s for row, _, _ in payload.responses if row.utt_id not in refused)
            taken = Tally.of(row.duration_s for row, _, _ in payload.responses)
        rows = write_bank(output.path(".npy"), output.path(".parquet"), output.name, responses)
        rooms = len({row.room_id for row in rows})
        return UnitReport(kept, tuple(rejects), {"rooms": rooms, "responses": len(rows)}, taken)

    def _simulate(self, split: Split, number: int) -> list[tuple[RirRow, Rir]]:
        """Draw and simulate one room."""
        from flowse.simulation.rir_bank import simulated_rows
        from flowse.simulation.rirs import simulate_room

        config = self._config
        seed = derive_seed(self._seed, NAME, split, number)
        room = draw_room(config.draw, seed)
        rirs = simulate_room(room, derive_seed(seed, "rays"), config.sample_rate, config.image_order, config.max_s)
        return simulated_rows(f"simulated/{split}-{number:06d}", split, room, rirs, config.sample_rate)

    def _read(self, payload: MeasuredResponses) -> tuple[list[tuple[RirRow, Rir]], list[Reject]]:
        """Read measured responses; those that are silent or cannot be read become reject rows."""
        from flowse.simulation.rir_bank import read_measured

        responses, rejects = [], []
        for place, (row, room_id, source) in enumerate(payload.responses):
            path = self._roots[row.corpus] / row.path
            try:
                with refusing(row.path):
                    if place in payload.refused:
                        raise Refusal.failed(*payload.refused[place])
                    responses.append(
                        read_measured(
                            path, row, room_id, source, sample_rate=self._config.sample_rate, max_s=self._config.max_s
                        )
                    )
            except Refusal as error:
                rejects.append(Reject.of(row, NAME, error))
        return responses, rejects


def _simulated_units(config: Config) -> Iterator[Unit[SimulatedRooms]]:
    for split in SPLITS:
        for numbers in batched(range(config.rooms(split)), config.rooms_per_unit):
            # The length of a response is known only when it has been simulated.
            taken = Tally(len(numbers) * config.draw.sources, 0.0)
            content = content_of(split, numbers, config.draw, config.image_order)
            yield Unit(f"simulated-{split}", SimulatedRooms(split, tuple(numbers)), taken, content)


def _measured_units(config: Config, parts: Sequence[Path]) -> Iterator[Unit[MeasuredResponses]]:
    """Number the responses of every room, and put whole rooms of one corpus into units."""
    import numpy as np

    from flowse.data.parquet import read_rows
    from flowse.data.shuffle import hash64, leaves

    rooms: dict[str, dict[str, list[Utterance]]] = {}
    for row in read_rows(parts, Utterance):
        if row.kind == "rir":
            if row.split is None:
                raise UserError(f"{NAME}: {row.utt_id} has no split; run ingest again with --force")
            rooms.setdefault(row.corpus, {}).setdefault(f"{row.corpus}/{row.speaker or row.path}", []).append(row)
    for corpus in sorted(rooms):
        ordered = sorted(rooms[corpus], key=lambda room_id: (hash64(room_id), room_id))
        responses = [
            (row, room_id, source)
            for room_id in ordered
            for source, row in enumerate(sorted(rooms[corpus][room_id], key=lambda row: row.utt_id))
        ]
        hashes = np.array([hash64(room_id) for _, room_id, _ in responses], np.uint64)
        ends = leaves(hashes, config.responses_per_unit).tolist()
        for begin, end in zip([0, *ends], ends, strict=False):
            held = tuple(responses[begin:end])
            taken = Tally.of(row.duration_s for row, _, _ in held)
            yield Unit(f"measured-{corpus}", MeasuredResponses(held), taken, content_of(held), corpus)


def run(config: Config, context: StageContext) -> StageReport:
    """Simulate the rooms, read the measured responses, and join both to one bank."""
    from flowse.simulation.rir_bank import merge_rows

    try:
        draw_room(config.draw, context.seed)
    except ValueError as error:
        raise UserError(f"{NAME}.draw: {error}; widen a range") from None
    units: list[Unit[SimulatedRooms | MeasuredResponses]] = [
        *_simulated_units(config),
        *_measured_units(config, context.inputs["ingest"].parts(".parquet")),
    ]
    report = context.map_units(Worker, (config, context.seed, dict(context.roots)), units)
    parts = context.parts(".parquet")
    with context.write("index.parquet") as path:
        medians_s = merge_rows(parts, path, os.path.relpath(parts[0].parent, context.folder) if parts else "")
    metrics = {f"rt60_median_s_{split}": median_s for split, median_s in medians_s.items()}
    return dataclasses.replace(report, metrics={**report.metrics, **metrics})
