"""The bank of room impulse responses on disk: rows that describe them, and files that hold their samples."""

from __future__ import annotations

import hashlib
import math
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from flowse.audio.waveform import read, resample
from flowse.data.arrays import map_array
from flowse.data.content import require_unchanged
from flowse.data.manifest import SPLITS, Split, Utterance
from flowse.data.parquet import read_columns, schema_of, write_rows
from flowse.errors import DamagedFile
from flowse.fetching import fetched
from flowse.refusal import Refusal
from flowse.simulation.rirs import Rir, direct_to_reverberant_db, measured_rir, rt60
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
        unit: The file that holds the samples, without its suffix: a path relative to the folder of the table.
        offset: Index of the first sample in that file.
        samples: Number of samples.
        delay: Index of the direct path in the response.
        content: Hash of the samples (BLAKE2b, 128 bits, hexadecimal).
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
    content: str


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
                content=_content(rir),
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
        content=_content(rir),
    )


def _content(rir: Rir) -> str:
    return hashlib.blake2b(rir.samples.astype("<f4").tobytes(), digest_size=16).hexdigest()


def read_measured(
    path: Path, row: Utterance, room_id: str, source: int, *, sample_rate: int, max_s: float = 2.0
) -> tuple[RirRow, Rir]:
    """Read a measured response from its recording, and describe it.

    Of several microphones the first is taken: their mean would be a comb filter.

    Args:
        path: The recording.
        row: Row of the manifest; it must have a split.
        room_id: Room of the response.
        source: Number of the source in its room.
        sample_rate: Sample rate of the bank in Hz.
        max_s: Responses are cut after this many seconds.

    Returns:
        The row, of which `write_bank` fills `unit` and `offset`, and the response.

    Raises:
        Refusal: The recording cannot be read, or is silent.
        ValueError: The row has no split.
    """
    if row.split is None:
        raise ValueError(f"{row.utt_id} has no split; ingest assigns it")
    require_unchanged(row, path)
    channels, file_rate = read(path, offset_s=row.offset_s, duration_s=row.duration_s or None)
    response = resample(np.ascontiguousarray(channels[0]), file_rate, sample_rate)
    try:
        rir = measured_rir(response, sample_rate, max_s)
    except ValueError as error:
        raise Refusal("silent", f"{row.path}: {error}") from None
    return measured_row(room_id, source, row.split, rir, sample_rate, corpus=row.corpus, licence=row.licence), rir


def write_bank(samples_path: Path, rows_path: Path, unit: str, responses: Iterable[tuple[RirRow, Rir]]) -> list[RirRow]:
    """Write a unit of the bank.

    Args:
        samples_path: Where to write the responses, one after the other, as one float32 `.npy` array.
        rows_path: Where to write the rows as parquet.
        unit: Name of the samples' file without its suffix, in the folder of the rows.
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


def merge_rows(parts: Sequence[Path], path: Path, within: str = "") -> dict[Split, float]:
    """Join the rows of all units to the index of the bank.

    Args:
        parts: Rows of every unit, as `write_bank` wrote them.
        path: Where to write the index.
        within: Folder of the units, relative to that of the index, e.g. "../units"; empty: the same.

    Returns:
        Median of the measured decay times of each split in seconds; splits without one are left out.
    """
    decays_s: dict[Split, list[float]] = {split: [] for split in SPLITS}
    with pq.ParquetWriter(path, schema_of(RirRow), compression="zstd") as writer:
        for part in parts:
            table = read_columns(part, RirRow)
            units = pc.binary_join_element_wise(f"{within}/" if within else "", table["unit"], "")
            table = table.set_column(table.schema.get_field_index("unit"), "unit", units)
            writer.write_table(table.cast(schema_of(RirRow)))
            for split, decay_s in zip(table["split"].to_pylist(), table["rt60_s"].to_pylist(), strict=True):
                if decay_s is not None:
                    decays_s[split].append(decay_s)
    return {split: float(np.median(values)) for split, values in decays_s.items() if values}


_MEND = "`verify --mend` forgets what is damaged, and the next run makes it anew"


class RirBank:
    """Reads impulse responses by their rows; the files are mapped into memory, not loaded."""

    def __init__(self, folder: Path, open_files: int = 64) -> None:
        """Open the bank.

        Args:
            folder: Folder of the table of the rows; they name the files `<unit>.npy` relative to it.
            open_files: At most this many files stay mapped.
        """
        self._folder = folder
        self._mapped: OrderedDict[str, np.ndarray] = OrderedDict()
        self._open_files = open_files

    def read(self, row: RirRow) -> Rir:
        """Read one response.

        Raises:
            DamagedFile: The file is missing, is no array, or holds fewer samples than the row says.
        """
        values = self._mapped.pop(row.unit, None)
        if values is None:
            values = self._map(row.unit)
        self._mapped[row.unit] = values
        if len(self._mapped) > self._open_files:
            self._mapped.popitem(last=False)
        samples = np.array(values[row.offset : row.offset + row.samples])
        if len(samples) != row.samples:
            raise DamagedFile(
                f"{self._folder / row.unit}.npy is cut off: {row.room_id} needs {row.samples} values; {_MEND}"
            )
        return Rir(samples, row.delay)

    def _map(self, unit: str) -> np.ndarray:
        path = self._folder / f"{unit}.npy"
        try:
            return map_array(fetched(path), np.float32, (None,), _MEND)
        except FileNotFoundError:
            raise DamagedFile(f"{path} is missing; {_MEND}") from None
