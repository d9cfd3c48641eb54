"""What mixtures are drawn from: lists of noises, other speakers and rooms on disk, and their content by split."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pyarrow.parquet as pq

from flowse.data.leaks import Leak, find_leaks
from flowse.data.manifest import Split, Utterance
from flowse.data.parquet import read_columns, read_rows, schema_of, write_rows
from flowse.simulation.recipe import Candidates, Noise, Pool
from flowse.simulation.rir_bank import RirRow

COMPETITORS = 4096
"""Most utterances of one corpus and split that are listed as competing speech, so that memory is bounded."""


@dataclass(frozen=True)
class Sources:
    """Where the lists lie from which a process draws what it mixes with the speech.

    Attributes:
        noises: Parquet of the noise recordings (`Utterance`); `write_noises` makes it.
        competitors: Parquet of the utterances that may be the other speaker; `write_competitors` makes it.
        rooms: Parquet of the impulse responses (`RirRow`), which says where their samples lie (`RirBank`).
    """

    noises: Path
    competitors: Path
    rooms: Path

    def rooms_by_split(self) -> dict[str, int]:
        """Return the number of impulse responses of each split."""
        return dict(Counter(read_columns(self.rooms, RirRow, ["split"])["split"].to_pylist()))

    def sample_rates(self) -> set[int]:
        """Return the sample rates of the impulse responses, in Hz."""
        return set(read_columns(self.rooms, RirRow, ["sample_rate"])["sample_rate"].to_pylist())


@dataclass(frozen=True)
class SplitSources:
    """All that may occur in the mixtures of one split.

    Attributes:
        noises: The noise recordings, by id.
        competitors: Utterances of other speakers, by id.
        rirs: Rows of the impulse responses, by room and number of the source.
    """

    noises: Mapping[str, Utterance]
    competitors: Mapping[str, Utterance]
    rirs: Mapping[str, Mapping[int, RirRow]]

    @classmethod
    def read(cls, sources: Sources, split: Split) -> SplitSources:
        """Read the rows of one split."""
        noises = {row.utt_id: row for row in read_rows(sources.noises, Utterance) if row.split == split}
        competitors = {row.utt_id: row for row in read_rows(sources.competitors, Utterance) if row.split == split}
        rirs: dict[str, dict[int, RirRow]] = {}
        for row in read_rows(sources.rooms, RirRow):
            if row.split == split:
                rirs.setdefault(row.room_id, {})[row.source] = row
        return cls(noises, competitors, rirs)

    @cached_property
    def candidates(self) -> Candidates:
        """What recipes are drawn from."""
        return Candidates(
            [Noise(name, row.duration_s) for name, row in self.noises.items()],
            [(room_id, len(rows)) for room_id, rows in self.rirs.items()],
            [(row.corpus, row.speaker, name) for name, row in self.competitors.items()],
        )


def write_noises(parts: Sequence[Path], path: Path) -> dict[str, int]:
    """Copy the noise rows of a manifest to a list of their own.

    Args:
        parts: Manifest parts (`Utterance`).
        path: Where to write the list.

    Returns:
        The number of noises of each split; "" counts those without a split.
    """
    counts: Counter[str] = Counter()
    with pq.ParquetWriter(path, schema_of(Utterance), compression="zstd") as writer:
        for part in parts:
            table = read_columns(part, Utterance, filters=[("kind", "==", "noise")])
            writer.write_table(table.cast(schema_of(Utterance)))
            counts.update(split or "" for split in table["split"].to_pylist())
    return dict(counts)


def write_competitors(parts: Sequence[Path], path: Path) -> None:
    """List the utterances that may be the other speaker: at most `COMPETITORS` of each corpus and split.

    The choice is by hash of the ids, so that it depends on no order.

    Args:
        parts: Manifest parts (`Utterance`); rows without a speaker are left out.
        path: Where to write the list.
    """
    chosen: dict[tuple[str, str | None], list[Utterance]] = {}
    for part in parts:
        for row in read_rows(part, Utterance):
            if row.kind == "speech" and row.speaker:
                chosen.setdefault((row.corpus, row.split), []).append(row)
        for key, rows in chosen.items():
            if len(rows) > COMPETITORS:
                best = Pool([row.utt_id for row in rows]).choose(0, COMPETITORS)
                chosen[key] = [rows[index] for index in best]
    write_rows(path, Utterance, (row for key in sorted(chosen, key=str) for row in chosen[key]))


def find_split_leaks(speech: Sequence[Path], sources: Sources) -> list[Leak]:
    """Find speakers, recordings, noises and rooms that stand in more than one split.

    Args:
        speech: Manifest parts of the speech.
        sources: What the speech is mixed with.
    """
    by_path = [
        *find_leaks(speech, "recording", ("corpus", "path")),
        *find_leaks([sources.noises], "noise recording", ("corpus", "path")),
    ]
    return [
        *find_leaks(speech, "speaker", ("corpus", "speaker")),
        *by_path,
        # The same bytes under two names, or as speech and as noise; those of one name are found already.
        *([] if by_path else find_leaks([*speech, sources.noises], "content of", ("content",), shown="path")),
        *find_leaks([sources.noises], "noise place", ("corpus", "speaker")),
        *find_leaks([sources.rooms], "room", ("room_id",)),
    ]
