"""Assign the utterances of a manifest to shards by hashes of their names, with bounded memory.

A shard holds one corpus and one split. Its utterances are neighbours in the order of a hash, first of the speaker, then
of the recording, then of the utterance; the borders lie at fixed places of that hash (`leaves`). So which shard an
utterance stands in depends on its own names and on how many others have similar hashes, and on nothing else: one
recording more or less, or one speaker whose utterances fit into a shard, changes one shard, or splits it, or joins it
with its neighbours. Recordings of another corpus change none.
"""

from __future__ import annotations

import hashlib
import posixpath
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Int, UInt64

from flowse.data.manifest import SPLITS, Split, Utterance
from flowse.data.parquet import read_columns, read_rows, schema_of
from flowse.files import sha256_file

_BUCKET_ROWS = 100_000
_WITH_COPY = schema_of(Utterance).append(pa.field("copy", pa.int64()))
_SCHEMA = schema_of(Utterance).append(pa.field("shard", pa.int64())).append(pa.field("hash", pa.uint64()))
_NOT_HEARD = ("language_prob", "text_logprob")
"""Columns that change nothing of a mixture: a new figure in them must not make a shard again."""


@dataclass(frozen=True)
class ShardPlan:
    """The mixtures that a shard is to hold.

    Attributes:
        corpus: Corpus of all its speech.
        split: The split that the shard belongs to.
        path: Parquet file of the utterances in their order, each with its `copy`; see `read_shard_plan`.
        sha256: Hash of that file.
        mixtures: Number of mixtures.
        seconds: Total length of the mixtures, each limited to the longest allowed.
    """

    corpus: str
    split: Split
    path: Path
    sha256: str
    mixtures: int
    seconds: float

    @property
    def label(self) -> str:
        """What the names of the shards of this corpus and split begin with."""
        return f"{self.split}-{self.corpus}"


def hash64(name: str) -> int:
    """Return a 64-bit hash of a name (BLAKE2b)."""
    return int.from_bytes(hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")


def leaves(hashes: UInt64[np.ndarray, " R"], most: int) -> Int[np.ndarray, " leaves"]:
    """Cut sorted hashes into groups of at most `most`, at places that the hashes decide; return each group's end.

    As in extendible hashing (Fagin et al., 1979), a group is all hashes that begin with the same bits, and it is halved
    at the next bit while it is too large. One hash more or less changes one group, or replaces one by two or two by
    one, and no other. Since hashes are evenly spread, all groups are about equally large, between `most` / 2 and
    `most`. Equal hashes stay together, even if they are more than `most`.

    Args:
        hashes: In rising order.
        most: At least 1.
    """
    ends: list[int] = []
    open_nodes = [(0, len(hashes), 0)] if len(hashes) else []
    while open_nodes:
        begin, end, depth = open_nodes.pop()
        if end - begin <= most or depth == 64 or hashes[begin] == hashes[end - 1]:
            ends.append(end)
            continue
        bit = np.uint64(1) << np.uint64(63 - depth)
        # The first hash of the upper half has this bit set; all have the same bits before it.
        prefix = hashes[begin] >> np.uint64(64 - depth) << np.uint64(64 - depth) if depth else np.uint64(0)
        middle = begin + int(np.searchsorted(hashes[begin:end], prefix | bit))
        # The lower half is taken from the stack first, so that the ends rise.
        open_nodes += [(first, last, depth + 1) for first, last in ((middle, end), (begin, middle)) if last > first]
    return np.array(ends, np.int64)


@dataclass
class _Places:
    """Where every utterance of speech lies and goes: parallel arrays, about 24 bytes an utterance.

    Attributes:
        part: Index of the manifest part.
        row: Index of the row in the part.
        group: Number of the corpus and split.
        hash: What the order is made of.
        seconds: Length of a mixture of it.
        shard: Number of the shard, over all groups.
    """

    part: Int[np.ndarray, " R"]
    row: Int[np.ndarray, " R"]
    group: Int[np.ndarray, " R"]
    hash: UInt64[np.ndarray, " R"]
    seconds: np.ndarray
    shard: Int[np.ndarray, " R"]


def plan_shards(
    parts: Sequence[Path], folder: Path, *, copies: Mapping[Split, int], per_shard: int, max_s: float
) -> list[ShardPlan]:
    """Assign every (utterance, copy) of a manifest to a shard of its corpus and split.

    All utterances of a speaker (where there is none, of a folder) are neighbours, all of a recording, and all copies of
    an utterance: to add a folder, to forget a speaker or to replace a recording touches few shards, and a worker reads
    a long recording for as many mixtures as it can. Rows pass through files in `folder`, one bucket of shards at a
    time: memory holds a few numbers for each utterance, never all rows.

    Args:
        parts: Manifest parts; only rows of kind "speech" are assigned.
        folder: Folder for the files of the plans.
        copies: Number of mixtures of an utterance, by split.
        per_shard: Number of mixtures in a shard at most; at least one utterance with all its copies.
        max_s: Longer utterances count as this long, in seconds.

    Returns:
        A plan for each shard, ordered by split, corpus and hash.

    Raises:
        ValueError: An utterance has no split.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if not parts:
        return []
    groups, places = _read_places(parts, max_s)
    group_of = _assign(groups, places, copies, per_shard)
    if not group_of:
        return []
    counts = np.bincount(places.shard, minlength=len(group_of))
    seconds = np.bincount(places.shard, weights=places.seconds, minlength=len(group_of))
    times = np.array([copies[groups[group][0]] for group in group_of])
    buckets = _buckets(counts * times)
    files = _sort_into_buckets(parts, folder, places, np.array([last for _, last in buckets]))
    plans = []
    for (first, last), file in zip(buckets, files, strict=True):
        # The id decides where hashes are equal: the order must not depend on the parts.
        table = pa.ipc.open_file(file).read_all().sort_by([(name, "ascending") for name in ("shard", "hash", "utt_id")])
        begin = 0
        for shard in range(first, last + 1):
            split, corpus = groups[group_of[shard]]
            path = folder / f"{shard:06d}.parquet"
            rows = table.slice(begin, counts[shard])
            _write_plan(path, rows, copies[split])
            begin += counts[shard]
            mixtures, length_s = int(counts[shard] * times[shard]), float(seconds[shard] * times[shard])
            plans.append(ShardPlan(corpus, split, path, sha256_file(path), mixtures, length_s))
        file.unlink()
    return plans


def _write_plan(path: Path, rows: pa.Table, copies: int) -> None:
    """Write the rows of a shard, each once for every copy."""
    chosen = np.repeat(np.arange(rows.num_rows), copies)
    numbers = np.tile(np.arange(copies), rows.num_rows)
    table = rows.drop_columns(["shard", "hash"]).take(chosen).append_column("copy", pa.array(numbers))
    pq.write_table(table.cast(_WITH_COPY), path, compression="zstd")


def _read_places(parts: Sequence[Path], max_s: float) -> tuple[list[tuple[Split, str]], _Places]:
    """Read the names alone; return the groups (split and corpus) in order, and where every row lies."""
    codes: dict[tuple[Split, str], int] = {}
    blocks = [_block(part, codes, max_s) for part in parts]
    rows = np.array([len(block[0]) for block in blocks], np.int64)
    row, found, hashes, seconds = (np.concatenate([block[index] for block in blocks]) for index in range(4))
    # Groups are numbered as they are met; their order must not depend on the parts.
    groups = sorted(codes, key=lambda group: (SPLITS.index(group[0]), group[1]))
    order = np.zeros(len(codes), np.int32)
    order[[codes[group] for group in groups]] = np.arange(len(groups))
    part = np.repeat(np.arange(len(parts), dtype=np.int32), rows)
    return groups, _Places(part, row, order[found], hashes, seconds, np.zeros(len(row), np.int32))


def _block(
    part: Path, codes: dict[tuple[Split, str], int], max_s: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return row, code of the group, hash and seconds of every utterance of speech in a manifest part."""
    names = ["utt_id", "corpus", "path", "speaker", "kind", "split", "duration_s"]
    table = read_columns(part, Utterance, names)
    entries: list[tuple[int, int]] = []
    hashes: list[int] = []
    for row, (utt_id, corpus, path, speaker, kind, split) in enumerate(
        zip(*(table[name].to_pylist() for name in names[:-1]), strict=True)
    ):
        if kind != "speech":
            continue
        if split is None:
            raise ValueError(f"{part}: {utt_id} has no split; ingest assigns one to every row")
        entries.append((row, codes.setdefault((split, corpus), len(codes))))
        hashes.append(_order_of(f"speaker {speaker}" if speaker else posixpath.dirname(path), path, utt_id))
    rows, groups = np.array(entries, np.int32).reshape(-1, 2).T
    seconds = np.minimum(table["duration_s"].to_numpy()[rows], max_s)
    return rows, groups, np.array(hashes, np.uint64), seconds


def _order_of(group: str, path: str, utt_id: str) -> int:
    """Return a 64-bit hash: 24 bits of the speaker or folder, 20 of the recording, 20 of the utterance."""
    return hash64(group) >> 40 << 40 | hash64(path) >> 44 << 20 | hash64(utt_id) >> 44


def _assign(
    groups: Sequence[tuple[Split, str]], places: _Places, copies: Mapping[Split, int], per_shard: int
) -> list[int]:
    """Give every utterance its shard; return the group of each shard."""
    order = np.lexsort((places.hash, places.group))
    ends = np.searchsorted(places.group[order], np.arange(len(groups)), side="right")
    group_of: list[int] = []
    begin = 0
    for number, (split, _) in enumerate(groups):
        of_group = order[begin : ends[number]]
        begin = int(ends[number])
        cuts = leaves(places.hash[of_group], max(1, per_shard // copies[split]))
        places.shard[of_group] = len(group_of) + np.searchsorted(cuts, np.arange(len(of_group)), side="right")
        group_of += [number] * len(cuts)
    return group_of


def _buckets(counts: Sequence[int] | Int[np.ndarray, " K"]) -> list[tuple[int, int]]:
    """Group consecutive shards into buckets (first, last) that fit into memory."""
    buckets, first, rows = [], 0, 0
    for shard, count in enumerate(counts):
        rows += count
        if rows >= _BUCKET_ROWS or shard == len(counts) - 1:
            buckets.append((first, shard))
            first, rows = shard + 1, 0
    return buckets


def _sort_into_buckets(
    parts: Sequence[Path], folder: Path, places: _Places, lasts: Int[np.ndarray, " K"]
) -> list[Path]:
    """Write every row to the file of the bucket that contains its shard, with the shard and the hash."""
    files = [folder / f".bucket-{number:04d}.arrow" for number in range(len(lasts))]
    bucket_of = np.searchsorted(lasts, places.shard, side="left")
    begins = np.searchsorted(places.part, np.arange(len(parts) + 1))
    with ExitStack() as stack:
        writers = [stack.enter_context(pa.ipc.new_file(file, _SCHEMA)) for file in files]
        for number, part in enumerate(parts):
            of_part = slice(begins[number], begins[number + 1])
            if of_part.start == of_part.stop:
                continue
            table = read_columns(part, Utterance)
            for name in _NOT_HEARD:
                place = table.schema.get_field_index(name)
                table = table.set_column(place, name, pa.nulls(table.num_rows, pa.float64()))
            for bucket in np.unique(bucket_of[of_part]):
                chosen = np.flatnonzero(bucket_of[of_part] == bucket) + of_part.start
                rows = table.take(places.row[chosen])
                rows = rows.append_column("shard", pa.array(places.shard[chosen], pa.int64()))
                writers[bucket].write_table(rows.append_column("hash", pa.array(places.hash[chosen])).cast(_SCHEMA))
    return files


def read_shard_plan(path: Path) -> Iterator[tuple[Utterance, int]]:
    """Yield the utterances of a shard's plan, each with the number of its copy."""
    copies = read_columns(path, None, ["copy"])["copy"].to_pylist()
    return zip(read_rows(path, Utterance), copies, strict=True)
