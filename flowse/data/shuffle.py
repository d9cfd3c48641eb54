"""Assign the utterances of a manifest to shards in an order that a hash decides, with bounded memory."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Int

from flowse.data.manifest import SPLITS, Split, Utterance
from flowse.data.parquet import read_columns, read_rows, schema_of
from flowse.data.shards import even_sizes

_BUCKET_ROWS = 100_000
_SCHEMA = schema_of(Utterance).append(pa.field("copy", pa.int64())).append(pa.field("place", pa.int64()))


@dataclass(frozen=True)
class ShardPlan:
    """The mixtures that a shard is to hold.

    Attributes:
        name: Name of the shard without suffix, e.g. "train-00042".
        split: The split that the shard belongs to.
        path: Parquet file of the utterances in their order, each with its `copy`; see `read_shard_plan`.
        mixtures: Number of mixtures.
        seconds: Total length of the mixtures, each limited to the longest allowed.
    """

    name: str
    split: Split
    path: Path
    mixtures: int
    seconds: float


@dataclass
class _Places:
    """The source and the place of every mixture: parallel arrays, about 20 bytes for each mixture.

    Attributes:
        part: Index of the manifest part.
        row: Index of the row in the part.
        copy: Number of the mixture among those of the same row.
        place: Position in the shuffled order, counted over all splits.
    """

    part: Int[np.ndarray, " M"]
    row: Int[np.ndarray, " M"]
    copy: Int[np.ndarray, " M"]
    place: Int[np.ndarray, " M"]


def plan_shards(
    parts: Sequence[Path],
    folder: Path,
    *,
    seed: int,
    copies: Mapping[Split, int],
    per_shard: int,
    max_s: float,
) -> list[ShardPlan]:
    """Assign every (utterance, copy) of a manifest to a shard of its split.

    The order is that of a hash of (seed, utterance, copy), so that corpora and speakers mix in every shard. Rows pass
    through files in `folder`, one bucket of shards at a time: memory holds a few numbers for each utterance, never all
    rows.

    Args:
        parts: Manifest parts; only rows of kind "speech" are assigned.
        folder: Folder for the files of the plans.
        seed: Seed of the order.
        copies: Number of mixtures of an utterance, by split.
        per_shard: Number of mixtures in a shard at most; the sizes of a split's shards differ by at most one.
        max_s: Longer utterances count as this long, in seconds.

    Returns:
        A plan for each shard, ordered by split and number.

    Raises:
        ValueError: An utterance has no split.
    """
    folder.mkdir(parents=True, exist_ok=True)
    places, sizes, seconds = _choose_places(parts, seed, copies, per_shard, max_s)
    shards = [(split, number) for split in SPLITS for number in range(len(sizes[split]))]
    if not shards:
        return []
    counts = [size for split in SPLITS for size in sizes[split]]
    ends = np.cumsum(counts)
    buckets = _buckets(counts)
    files = _sort_into_buckets(parts, folder, places, ends[[last for _, last in buckets]])
    plans = []
    for (first, last), file in zip(buckets, files, strict=True):
        table = pa.ipc.open_file(file).read_all().sort_by("place").drop_columns(["place"])
        begin = 0
        for shard in range(first, last + 1):
            split, number = shards[shard]
            name = f"{split}-{number:05d}"
            path = folder / f"{name}.parquet"
            pq.write_table(table.slice(begin, counts[shard]), path, compression="zstd")
            begin += counts[shard]
            plans.append(ShardPlan(name, split, path, counts[shard], float(seconds[shard])))
        file.unlink()
    return plans


def _choose_places(
    parts: Sequence[Path], seed: int, copies: Mapping[Split, int], per_shard: int, max_s: float
) -> tuple[_Places, dict[Split, list[int]], list[float]]:
    """Read the ids alone and sort them by hash inside their split; also return the sizes and seconds of the shards."""
    blocks = [_block(number, part, seed, copies, max_s) for number, part in enumerate(parts)]
    part, row, copy, split, key = (
        np.concatenate([block[index] for block in blocks] or [np.zeros(0, np.int64)]) for index in range(5)
    )
    length = np.concatenate([block[5] for block in blocks] or [np.zeros(0)])
    # Part, row and copy decide only if two hashes are equal.
    order = np.lexsort((copy, row, part, key, split))
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    sizes = {name: even_sizes(int(np.count_nonzero(split == code)), per_shard) for code, name in enumerate(SPLITS)}
    begins = np.cumsum([0, *(size for name in SPLITS for size in sizes[name])])[:-1]
    seconds = np.add.reduceat(length[order], begins).tolist() if len(begins) else []
    return _Places(part, row, copy, place), sizes, seconds


def _block(
    number: int, part: Path, seed: int, copies: Mapping[Split, int], max_s: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return part, row, copy, split, hash and seconds of every mixture of a manifest part."""
    table = read_columns(part, Utterance, ["utt_id", "kind", "split", "duration_s"])
    wanted = {None: 0} | {name: copies[name] for name in SPLITS}
    entries = []
    for row, (utt_id, kind, split) in enumerate(
        zip(*(table[name].to_pylist() for name in ("utt_id", "kind", "split")), strict=True)
    ):
        if kind != "speech":
            continue
        if split is None:
            raise ValueError(f"{part}: {utt_id} has no split; ingest assigns one to every row")
        for copy in range(wanted[split]):
            digest = hashlib.blake2b(f"{seed}:{copy}:{utt_id}".encode(), digest_size=8).digest()
            entries.append((row, copy, SPLITS.index(split), int.from_bytes(digest, "big") >> 1))
    rows, copy_numbers, splits, keys = np.array(entries, np.int64).reshape(-1, 4).T
    seconds = np.minimum(table["duration_s"].to_numpy()[rows], max_s)
    return (
        np.full(len(rows), number, np.int32),
        rows.astype(np.int32),
        copy_numbers.astype(np.int16),
        splits.astype(np.int8),
        keys,
        seconds,
    )


def _buckets(counts: Sequence[int]) -> list[tuple[int, int]]:
    """Group consecutive shards into buckets (first, last) that fit into memory."""
    buckets, first, rows = [], 0, 0
    for shard, count in enumerate(counts):
        rows += count
        if rows >= _BUCKET_ROWS or shard == len(counts) - 1:
            buckets.append((first, shard))
            first, rows = shard + 1, 0
    return buckets


def _sort_into_buckets(parts: Sequence[Path], folder: Path, places: _Places, ends: Int[np.ndarray, " K"]) -> list[Path]:
    """Write every row, once for each copy, to the file of the bucket that contains its place."""
    files = [folder / f".bucket-{number:04d}.arrow" for number in range(len(ends))]
    bucket_of = np.searchsorted(ends, places.place, side="right")
    begins = np.searchsorted(places.part, np.arange(len(parts) + 1))
    with ExitStack() as stack:
        writers = [stack.enter_context(pa.ipc.new_file(file, _SCHEMA)) for file in files]
        for number, part in enumerate(parts):
            of_part = slice(begins[number], begins[number + 1])
            if of_part.start == of_part.stop:
                continue
            table = read_columns(part, Utterance)
            for bucket in np.unique(bucket_of[of_part]):
                chosen = np.flatnonzero(bucket_of[of_part] == bucket) + of_part.start
                rows = table.take(places.row[chosen])
                rows = rows.append_column("copy", pa.array(places.copy[chosen]))
                writers[bucket].write_table(rows.append_column("place", pa.array(places.place[chosen])).cast(_SCHEMA))
    return files


def read_shard_plan(path: Path) -> Iterator[tuple[Utterance, int]]:
    """Yield the utterances of a shard's plan, each with the number of its copy."""
    copies = read_columns(path, None, ["copy"])["copy"].to_pylist()
    return zip(read_rows(path, Utterance), copies, strict=True)
