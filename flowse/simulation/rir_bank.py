"""The bank of room impulse responses on disk: rows that describe them, and files that hold their samples."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from flowse.data.manifest import Split
from flowse.data.parquet import write_rows
from flowse.simulation.rirs import Rir, direct_to_reverberant_db, rt60
from flowse.simulation.rooms import Room


@dataclass(frozen=True, kw_only=True)
class RirRow:
    """One impulse response in the bank.

    Attributes:
        room_id: Room of the response; splits must not share a room.
        source: Number of the source in its room, from 0.
        split: Part of the data that may use the room.
        origin: "simulated" or "measured".
        corpus: Corpus of a measured response; empty if simulated.
        licence: Licence of the corpus.
        shape: Floor plan: "shoebox", "polygon", or empty if unknown.
        corners_m: Floor plan: x and y of every corner in turn, in metres; empty if unknown.
        height_m: Height of the room; None if unknown.
        microphone_m: x, y, z in metres; empty if unknown.
        source_m: x, y, z in metres; empty if unknown.
        distance_m: From source to microphone; None if unknown.
        rt60_requested_s: Decay time that the walls were made for; None for a measured response.
        rt60_s: Decay time measured on the response; None if the response is too short for it.
        direct_to_reverberant_db: Energy up to 2.5 ms after the direct path over the later energy.
        sample_rate: In Hz.
        unit: Stem of the file that holds the samples.
        offset: Index of the first sample in that file.
        samples: Number of samples.
        delay: Index of the direct path in the response.
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


def simulated_rows(
    room_id: str, split: Split, room: Room, rirs: Sequence[Rir], sample_rate: int
) -> list[tuple[RirRow, Rir]]:
    """Return a row for each response of a simulated room, with the response; `write_bank` fills `unit` and `offset`."""
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
    """Return the row of a measured response, whose room is unknown; `write_bank` fills `unit` and `offset`."""
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
    """Write a unit of the bank.

    Args:
        samples_path: Where to write the responses, one after the other, as one float32 `.npy` array.
        rows_path: Where to write the rows as parquet.
        unit: Stem under which the bank's readers will find the samples.
        responses: The rows and their responses.

    Returns:
        The rows as written, with `unit` and `offset`.
    """
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
    """Reads impulse responses by their rows; the files are mapped into memory, not loaded."""

    def __init__(self, folder: Path, open_files: int = 64) -> None:
        """Open the bank.

        Args:
            folder: Folder with the files `<unit>.npy`.
            open_files: At most this many files stay mapped.
        """
        self._folder = folder
        self._mapped: OrderedDict[str, np.ndarray] = OrderedDict()
        self._open_files = open_files

    def read(self, row: RirRow) -> Rir:
        """Read one response.

        Raises:
            ValueError: The file holds fewer samples than the row says.
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
