"""Training examples in WebDataset tar shards, with an index that knows where every member's bytes are."""

from __future__ import annotations

import hashlib
import json
import tarfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow.parquet as pq
from jaxtyping import Float32

from flowse.audio.waveform import flac_bytes, from_flac_bytes
from flowse.data.manifest import Split
from flowse.data.parquet import read_rows, schema_of, write_rows

MEMBERS = ("clean.flac", "json", "noisy.flac")
"""What a training example consists of, in the order in which it stands in the tar."""


class ShardError(Exception):
    """A shard does not hold what its index says; the message names the shard and the member."""


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """A training example: a noisy waveform and the waveform that enhancement should make of it.

    Attributes:
        key: Unique in the dataset, without dots (WebDataset cuts keys at the first one).
        clean: Target, full scale ±1.
        noisy: Input, sample-aligned with `clean` and as long.
        sample_rate: Of both, in Hz.
        meta: What is known of it: the columns of its `IndexRow`, the recipe, the checks.
    """

    key: str
    clean: Float32[np.ndarray, " N"]
    noisy: Float32[np.ndarray, " N"]
    sample_rate: int
    meta: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class IndexRow:
    """Where a training example is stored, and what can be asked of it without opening the shard.

    Attributes:
        key: Key of the example.
        utt_id: Utterance that its speech comes from.
        copy: Which mixture of that utterance it is, from 0.
        shard: File name of the tar.
        split: Part of the data it belongs to.
        samples: Length in samples.
        seconds: Length in seconds.
        text: Transcript; empty if unknown.
        language: ISO 639-1 code; empty if unknown.
        speaker: Speaker; empty if unknown.
        corpus: Corpus of the speech.
        licence: Licence of the speech.
        snr_db: Active speech over all interference but the late reverberation, in dB.
        room_id: Room it was heard in; empty if none.
        clean_offset: First byte of the target's FLAC in the tar.
        clean_bytes: Length of it.
        noisy_offset: First byte of the input's FLAC.
        noisy_bytes: Length of it.
        json_offset: First byte of the JSON.
        json_bytes: Length of it.
        shard_bytes: Length of the whole tar.
        sha256: Of the whole tar, in hexadecimal.
    """

    key: str
    utt_id: str
    copy: int
    shard: str
    split: Split
    samples: int
    seconds: float
    text: str
    language: str
    speaker: str
    corpus: str
    licence: str
    snr_db: float
    room_id: str
    clean_offset: int
    clean_bytes: int
    noisy_offset: int
    noisy_bytes: int
    json_offset: int
    json_bytes: int
    shard_bytes: int
    sha256: str


_FROM_META = (
    "utt_id",
    "copy",
    "split",
    "text",
    "language",
    "speaker",
    "corpus",
    "licence",
    "snr_db",
    "room_id",
)


class ShardWriter:
    """Writes one tar whose bytes are a function of the examples alone: no times, no owners, one order.

    Use as a context manager, or call `close`, which returns the index.
    """

    def __init__(self, path: Path, shard: str) -> None:
        """Open the tar.

        Args:
            path: Where to write; may be a temporary name.
            shard: File name under which the tar will be known to its readers.
        """
        self._file = path.open("wb")
        # Hashed while it is written, so that it need not be read again.
        self._sha256 = hashlib.sha256()
        self._position = 0
        self._shard = shard
        self._rows: list[dict[str, Any]] = []
        self._keys: set[str] = set()

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        return len(self._rows)

    def _write(self, *pieces: bytes) -> None:
        for piece in pieces:
            self._file.write(piece)
            self._sha256.update(piece)
            self._position += len(piece)

    def _member(self, name: str, data: bytes) -> tuple[int, int]:
        """Append a file; return where its data begin and how many bytes they are.

        As `tarfile.addfile` does, which copies data in pieces of 16 kB: that took a twentieth of simulate's time.
        """
        info = tarfile.TarInfo(name)
        info.size, info.mode, info.mtime = len(data), 0o644, 0
        self._write(info.tobuf(tarfile.GNU_FORMAT))
        offset = self._position
        self._write(data, bytes(-len(data) % tarfile.BLOCKSIZE))
        return offset, len(data)

    def add(self, mixture: Mixture) -> None:
        """Append one example as 16-bit FLAC and JSON.

        Raises:
            ValueError: The key has a dot or is taken, or the two waveforms differ in length.
            KeyError: `mixture.meta` lacks a column of the index.
        """
        key = mixture.key
        if "." in key or not key:
            raise ValueError(f"key {key!r}: a key must not be empty or hold a dot, WebDataset cuts it there")
        if key in self._keys:
            raise ValueError(f"key {key!r} stands twice in {self._shard}")
        if len(mixture.clean) != len(mixture.noisy):
            raise ValueError(f"{key}: clean has {len(mixture.clean)} samples, noisy has {len(mixture.noisy)}")
        known = {name: mixture.meta[name] for name in _FROM_META}
        text = json.dumps(
            {"key": key, "sample_rate": mixture.sample_rate, **mixture.meta},
            ensure_ascii=False,
            sort_keys=True,
        )
        data = (
            flac_bytes(mixture.clean, mixture.sample_rate),
            text.encode(),
            flac_bytes(mixture.noisy, mixture.sample_rate),
        )
        places = [self._member(f"{key}.{suffix}", member) for suffix, member in zip(MEMBERS, data, strict=True)]
        (clean, text_at, noisy) = places
        self._keys.add(key)
        self._rows.append(
            dict(
                known,
                key=key,
                shard=self._shard,
                samples=len(mixture.clean),
                seconds=len(mixture.clean) / mixture.sample_rate,
                clean_offset=clean[0],
                clean_bytes=clean[1],
                noisy_offset=noisy[0],
                noisy_bytes=noisy[1],
                json_offset=text_at[0],
                json_bytes=text_at[1],
            )
        )

    def close(self) -> list[IndexRow]:
        """Finish the tar and return one index row an example."""
        if not self._file.closed:
            # Two empty blocks end a tar, which is a whole number of records long.
            end = self._position + 2 * tarfile.BLOCKSIZE
            self._write(bytes(2 * tarfile.BLOCKSIZE + -end % tarfile.RECORDSIZE))
            self._file.close()
        sha256 = self._sha256.hexdigest()
        return [IndexRow(**row, sha256=sha256, shard_bytes=self._position) for row in self._rows]


def write_index(path: Path, rows: Iterable[IndexRow]) -> None:
    """Write index rows to one parquet file."""
    write_rows(path, IndexRow, rows)


def read_index(path: Path, split: Split | None = None) -> list[IndexRow]:
    """Read an index (of one shard or of a dataset), of one split or of all.

    Raises:
        ValueError: The file was not written as an index; the message names the missing column.
    """
    return [row for row in read_rows(path, IndexRow) if split is None or row.split == split]


def merge_indexes(paths: Sequence[Path], path: Path) -> str:
    """Join the indexes of shards to the dataset's, a shard at a time, and return the dataset digest.

    The digest is the SHA-256 over every shard's name, sum and number of examples, ordered by name: two
    datasets have the same digest if and only if their shards are the same bytes under the same names.
    """
    schema = schema_of(IndexRow)
    lines = []
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for part in paths:
            table = pq.read_table(part, schema=schema)
            if table.num_rows:
                writer.write_table(table)
                first = table.slice(0, 1).to_pylist()[0]
                lines.append(f"{first['shard']} {first['sha256']} {table.num_rows}\n")
    return hashlib.sha256("".join(sorted(lines)).encode()).hexdigest()


def _member_at(file: BinaryIO, row: IndexRow, offset: int, size: int, what: str) -> bytes:
    file.seek(offset)
    data = file.read(size)
    if len(data) != size:
        raise ShardError(f"{row.shard}: {row.key}.{what} is cut off; the file is shorter than its index says")
    return data


def read_mixture(folder: Path, row: IndexRow) -> Mixture:
    """Read one example by its byte offsets, without reading the rest of the shard.

    Args:
        folder: Where the shards are.
        row: Its row of the index.

    Raises:
        ShardError: The shard ends early, or holds another example there.
    """
    with (folder / row.shard).open("rb") as file:
        clean = _member_at(file, row, row.clean_offset, row.clean_bytes, "clean.flac")
        text = _member_at(file, row, row.json_offset, row.json_bytes, "json")
        noisy = _member_at(file, row, row.noisy_offset, row.noisy_bytes, "noisy.flac")
    try:
        meta = json.loads(text)
    except ValueError as error:
        raise ShardError(f"{row.shard}: {row.key}.json is not JSON ({error}); verify the shard") from error
    if meta.get("key") != row.key:
        raise ShardError(f"{row.shard}: found {meta.get('key')!r} where the index has {row.key!r}")
    clean_samples, rate = from_flac_bytes(clean)
    noisy_samples, _ = from_flac_bytes(noisy)
    return Mixture(key=row.key, clean=clean_samples, noisy=noisy_samples, sample_rate=rate, meta=meta)


def check_shard(path: Path, rows: Sequence[IndexRow]) -> list[str]:
    """Compare a shard on disk with its index and name everything that differs.

    A tar that was cut at a member boundary reads without an error; only the index can tell.

    Args:
        path: The tar.
        rows: The index rows of this shard.

    Returns:
        One line a finding; empty if the shard is whole.
    """
    if not path.exists():
        return [f"{path.name}: missing"]
    if not rows:
        return [f"{path.name}: has no row in the index"]
    findings = []
    size = path.stat().st_size
    if size != rows[0].shard_bytes:
        findings.append(f"{path.name}: {size} bytes, the index says {rows[0].shard_bytes}")
    with path.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() == rows[0].sha256:
            return findings
    findings.append(f"{path.name}: its sha256 is not the index's")
    expected = {}
    for row in rows:
        expected[f"{row.key}.clean.flac"] = (row.clean_offset, row.clean_bytes)
        expected[f"{row.key}.json"] = (row.json_offset, row.json_bytes)
        expected[f"{row.key}.noisy.flac"] = (row.noisy_offset, row.noisy_bytes)
    found = {}
    try:
        with tarfile.open(path) as tar:
            for member in tar:
                found[member.name] = (member.offset_data, member.size)
    except tarfile.TarError as error:
        findings.append(f"{path.name}: not readable as a tar beyond {len(found)} members ({error})")
    findings += [f"{path.name}: {name} is missing" for name in expected if name not in found]
    findings += [f"{path.name}: {name} is not in the index" for name in found if name not in expected]
    for name, place in found.items():
        if name in expected and expected[name] != place:
            findings.append(f"{path.name}: {name} stands at {place}, the index says {expected[name]}")
    return findings


def even_sizes(total: int, per_shard: int) -> list[int]:
    """Cut `total` examples into shards of at most `per_shard` whose sizes differ by at most one."""
    shards = -(-total // per_shard)
    return [total // shards + (index < total % shards) for index in range(shards)]
