"""Training examples in WebDataset tar shards, with an index of the byte offsets of every member."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import xxhash
from jaxtyping import Float32

from flowse.audio.flac import flac_bytes, from_flac_bytes
from flowse.data.manifest import Split
from flowse.data.parquet import read_columns, read_rows, schema_of, write_rows
from flowse.errors import DamagedFile
from flowse.fetching import fetched, stretch
from flowse.names import readable, why_unsafe
from flowse.refusal import Refusal

_UNITS = ("units/", "../units/")
NO_SPEECH_DB = -120.0
"""What stands for the level of silence, and so for the signal-to-noise ratio of a mixture without speech, in dB."""
MEMBERS = ("clean.flac", "json", "noisy.flac")
"""Suffixes of the files of a training example, in their order in the tar."""

_MEND = "`verify --mend` forgets what is damaged, and the next run makes it anew"
_FLAC_FACTS = slice(18, 26)  # of a FLAC file: rate (20 bits), channels (3), bits of a sample (5), samples (36)


class ShardError(DamagedFile):
    """A shard contradicts its index; the message names the shard and the member."""


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """A training example: a noisy waveform and the clean waveform that enhancement should turn it into.

    Attributes:
        key: Key of the example, unique in the dataset, without dots (WebDataset cuts keys at the first dot).
        clean: Target waveform, full scale ±1.
        noisy: Input waveform, sample-aligned with `clean` and equally long.
        sample_rate: Sample rate of both waveforms, in Hz.
        meta: Facts about the example: columns of its `IndexRow`, the recipe, the results of checks.
    """

    key: str
    clean: Float32[np.ndarray, " N"]
    noisy: Float32[np.ndarray, " N"]
    sample_rate: int
    meta: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class IndexRow:
    """The index row of a training example: its byte offsets in the shard, and facts for selection.

    Attributes:
        key: Key of the example.
        utt_id: Id of the utterance that the speech comes from.
        copy: Number of the mixture among those of the same utterance, from 0.
        shard: Path of the tar, relative to the folder of the index; see `shard_path`.
        split: The split that the example belongs to.
        samples: Length in samples.
        seconds: Length in seconds.
        text: Transcript; empty if unknown.
        language: ISO 639-1 code; empty if unknown.
        speaker: Speaker; empty if unknown.
        corpus: Corpus of the speech.
        licence: Licence of the speech.
        snr_db: Level of the active speech over all interference except the late reverberation, in dB; `NO_SPEECH_DB`
            if the mixture holds no speech.
        room_id: Room of the mixture; empty if there is no room.
        clean_offset: Offset of the first byte of the target's FLAC in the tar.
        clean_bytes: Length of the target's FLAC, in bytes.
        noisy_offset: Offset of the first byte of the input's FLAC in the tar.
        noisy_bytes: Length of the input's FLAC, in bytes.
        json_offset: Offset of the first byte of the JSON in the tar.
        json_bytes: Length of the JSON, in bytes.
        shard_bytes: Length of the tar, in bytes.
        sha256: SHA-256 of the tar, in hexadecimal.
        content: Hash of the example: of the bytes of its three files (XXH3, 128 bits, hexadecimal).
        tokens: Token ids of the text.
        unknown_symbols: Symbols of the text that their vocabulary lacks.
        vocabulary: Which vocabulary the ids are of (`flowse.data.token_ids.vocabulary_id`); empty: there are none.
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
    # Datasets of before have no such column, and can still be trained on.
    content: str = field(default="", metadata={"optional column": True})
    tokens: tuple[int, ...] = field(default=(), metadata={"optional column": True, "arrow": "uint16"})
    unknown_symbols: int = field(default=0, metadata={"optional column": True, "arrow": "uint16"})
    vocabulary: str = field(default="", metadata={"optional column": True})

    @property
    def has_speech(self) -> bool:
        """Whether there is speech in the mixture; if not, its target is silence."""
        return self.snr_db > NO_SPEECH_DB


_META_COLUMNS = (
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
    """Writes a tar whose bytes depend on the examples alone: it records no times and no owners.

    Use it as a context manager, or call `close`, which returns the index rows.

    Example:
        >>> with ShardWriter(folder / "train-00000.tar", "train-00000.tar") as writer:
        ...     writer.add(mixture)
        >>> rows = writer.close()
    """

    def __init__(self, path: Path, shard: str) -> None:
        """Open the tar.

        Args:
            path: File to write; may have a temporary name.
            shard: Final file name of the tar, which the index records.
        """
        self._file = path.open("wb")
        # The tar is hashed while it is written, so that it need not be read again.
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
        """Append a file; return the offset and the length of its data, in bytes.

        `tarfile.addfile` would write the same bytes, but it copies data in pieces of 16 kB, which took a twentieth of
        simulate's time.
        """
        info = tarfile.TarInfo(name)
        info.size, info.mode, info.mtime = len(data), 0o644, 0
        self._write(info.tobuf(tarfile.GNU_FORMAT))
        offset = self._position
        self._write(data, bytes(-len(data) % tarfile.BLOCKSIZE))
        return offset, len(data)

    def add(self, mixture: Mixture) -> None:
        """Append an example as 16-bit FLAC and JSON.

        Raises:
            ValueError: The key has a dot or was added before, or the two waveforms differ in length.
            KeyError: `mixture.meta` lacks a column of the index.
        """
        key = mixture.key
        if "." in key or not key:
            raise ValueError(f"key {key!r}: a key must not be empty or hold a dot, WebDataset cuts it there")
        if key in self._keys:
            raise ValueError(f"key {key!r} stands twice in {self._shard}")
        if len(mixture.clean) != len(mixture.noisy):
            raise ValueError(f"{key}: clean has {len(mixture.clean)} samples, noisy has {len(mixture.noisy)}")
        known = {name: mixture.meta[name] for name in _META_COLUMNS}
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
        clean, description, noisy = (
            self._member(f"{key}.{suffix}", member) for suffix, member in zip(MEMBERS, data, strict=True)
        )
        content = xxhash.xxh3_128()
        for member in data:
            content.update(len(member).to_bytes(8, "big") + member)
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
                json_offset=description[0],
                json_bytes=description[1],
                content=content.hexdigest(),
            )
        )

    def close(self) -> list[IndexRow]:
        """Finish the tar and return an index row for each example."""
        if not self._file.closed:
            # A tar ends with two empty blocks, and its length is a multiple of the record size.
            end = self._position + 2 * tarfile.BLOCKSIZE
            self._write(bytes(2 * tarfile.BLOCKSIZE + -end % tarfile.RECORDSIZE))
            self._file.close()
        sha256 = self._sha256.hexdigest()
        return [IndexRow(**row, sha256=sha256, shard_bytes=self._position) for row in self._rows]


def write_index(path: Path, rows: Iterable[IndexRow]) -> None:
    """Write index rows to a parquet file."""
    write_rows(path, IndexRow, rows)


def read_index(path: Path, split: Split | None = None) -> list[IndexRow]:
    """Read the index of a shard or of a dataset.

    Args:
        path: Parquet file of the index.
        split: Return only the rows of this split; None: all rows.

    Raises:
        ValueError: The file is no index; the message names the missing column.
    """
    return [row for row in read_rows(path, IndexRow) if split is None or row.split == split]


def merge_indexes(paths: Sequence[Path], path: Path, within: str = "") -> str:
    """Join the indexes of shards to the index of the dataset, shard by shard, and return the dataset's digest.

    The digest is the SHA-256 of the sorted hashes of all examples (`IndexRow.content`): two datasets have the same
    digest if and only if they hold the same examples, in whatever shards. Memory holds 16 bytes an example.

    Args:
        paths: Indexes of the shards, each of which names its shard as lying beside it.
        path: Where to write the index of the dataset.
        within: Folder of the shards, relative to that of `path`: "units", "../units", or empty for the same.
    """
    schema = schema_of(IndexRow)
    contents = [b""]
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for part in paths:
            table = read_columns(part, IndexRow)
            if table.num_rows:
                shards = pc.binary_join_element_wise(f"{within}/" if within else "", table["shard"], "")
                writer.write_table(table.set_column(schema.get_field_index("shard"), "shard", shards).cast(schema))
                contents.append(bytes.fromhex("".join(table["content"].to_pylist())))
    halves = np.frombuffer(b"".join(contents), ">u8").reshape(-1, 2)
    order = np.lexsort((halves[:, 1], halves[:, 0]))
    return hashlib.sha256(halves[order].tobytes()).hexdigest()


def _members(row: IndexRow) -> dict[str, tuple[int, int]]:
    """Return offset and length, in bytes, of an example's files in its tar.

    Raises:
        ShardError: They cannot lie in a tar of that length.
    """
    places = {
        "clean.flac": (row.clean_offset, row.clean_bytes),
        "json": (row.json_offset, row.json_bytes),
        "noisy.flac": (row.noisy_offset, row.noisy_bytes),
    }
    for what, (offset, size) in places.items():
        if not (offset >= 0 and 0 <= size <= row.shard_bytes):
            raise ShardError(
                f"{row.shard}: the index has {row.key}.{what} at byte {offset}, {size} bytes long; {_MEND}"
            )
    return places


@contextmanager
def _opened(path: Path, row: IndexRow, begin: int, end: int) -> Iterator[tuple[io.BufferedIOBase, int]]:
    """Open a shard, or only the stretch of it that is wanted; yield it and the offset of its first byte."""
    data = stretch(path, begin, end, row.sha256, row.shard_bytes)
    if data is not None:
        yield io.BytesIO(data), begin
        return
    with fetched(path, row.sha256).open("rb") as file:
        yield file, 0


def _member_at(file: io.BufferedIOBase, row: IndexRow, offset: int, size: int, what: str) -> bytes:
    file.seek(offset)
    data = file.read(size)
    if len(data) != size:
        raise ShardError(f"{row.shard}: {row.key}.{what} is cut off; the file is shorter than its index says; {_MEND}")
    return data


def shard_path(folder: Path, row: IndexRow) -> Path:
    """Return the path of an example's shard, which lies in the folder of the index or in `units` below or beside it.

    Raises:
        ShardError: The index names another place.
    """
    name = row.shard.removeprefix("../").removeprefix("units/") if row.shard.startswith(_UNITS) else row.shard
    why = "it holds a slash" if "/" in name else why_unsafe(name)
    if why:
        raise ShardError(f"{folder}: the index names the shard {readable(row.shard)!r}, but {why}; verify the dataset")
    return folder / row.shard


def _decode(path: Path, row: IndexRow, what: str, data: bytes) -> Float32[np.ndarray, " N"]:
    """Decode a member that must have the length and rate of its index row.

    The decoder compares the CRC that FLAC has in every frame: a flipped bit in the samples is an error. Length and rate
    stand in the header, which has no sum; they are compared before room is made for that many samples.
    """
    header = int.from_bytes(data[_FLAC_FACTS], "big")
    rate, length = header >> 44, header & (2**36 - 1)
    if length != row.samples or abs(row.samples - row.seconds * rate) > 0.5:
        raise ShardError(
            f"{path}: {row.key}.{what}.flac has {length} samples at {rate} Hz, the index says {row.samples} in "
            f"{row.seconds:g} s; {_MEND}"
        )
    try:
        samples, _ = from_flac_bytes(data)
    except Refusal as error:
        raise ShardError(f"{path}: {row.key}.{what}.flac: {error.detail}; {_MEND}") from None
    return samples


def read_mixture(folder: Path, row: IndexRow) -> Mixture:
    """Read an example by its byte offsets, without reading the rest of the shard.

    Args:
        folder: Folder of the shards.
        row: Index row of the example.

    Raises:
        ShardError: The shard is missing or ends early, another example stands at the offsets, or a bit has flipped.
    """
    path = shard_path(folder, row)
    places = _members(row)
    begin, end = min(at for at, _ in places.values()), max(at + size for at, size in places.values())
    try:
        with _opened(path, row, begin, end) as (file, first):
            clean, text, noisy = (_member_at(file, row, at - first, size, what) for what, (at, size) in places.items())
    except FileNotFoundError:
        raise ShardError(f"{path}: no such file, and the index names it; {_MEND}") from None
    except (IsADirectoryError, NotADirectoryError, PermissionError) as error:
        raise ShardError(f"{path}: cannot be read ({error.strerror}), and the index names it; {_MEND}") from None
    try:
        meta = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ShardError(f"{path}: {row.key}.json is not JSON ({error}); {_MEND}") from None
    if not isinstance(meta, dict) or meta.get("key") != row.key:
        found = meta.get("key") if isinstance(meta, dict) else meta
        raise ShardError(f"{path}: found {str(found)[:80]!r} where the index has {row.key!r}; {_MEND}")
    if changed := [name for name in _META_COLUMNS if meta.get(name) != getattr(row, name)]:
        raise ShardError(f"{path}: {', '.join(changed)} of {row.key}.json differ from the index; {_MEND}")
    samples = {what: _decode(path, row, what, data) for what, data in (("clean", clean), ("noisy", noisy))}
    rate = round(row.samples / row.seconds)
    return Mixture(key=row.key, clean=samples["clean"], noisy=samples["noisy"], sample_rate=rate, meta=meta)


def read_json_member(folder: Path, row: IndexRow) -> bytes:
    """Read what an example's shard says about it, without its audio.

    Args:
        folder: Folder of the shards.
        row: Index row of the example.

    Raises:
        ShardError: The shard is missing or ends early.
    """
    path = shard_path(folder, row)
    begin, size = _members(row)["json"]
    try:
        with _opened(path, row, begin, begin + size) as (file, first):
            return _member_at(file, row, begin - first, size, "json")
    except OSError as error:
        raise ShardError(f"{path}: cannot be read ({error.strerror}), and the index names it; {_MEND}") from None


def check_shard(path: Path, rows: Sequence[IndexRow]) -> list[str]:
    """Compare a shard on disk with its index.

    A tar that is truncated at a member boundary can be read without an error; only the index reveals it.

    Args:
        path: File of the tar.
        rows: Index rows of the shard.

    Returns:
        A line for each difference; empty if the shard is whole.
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
