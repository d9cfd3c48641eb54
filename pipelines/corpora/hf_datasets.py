"""Hugging Face `datasets` as parquet files: recordings in an audio column, as the Hub serves them.

The files are those of `Dataset.to_parquet`, or of a data set's folder on the Hub (`train-00000-of-00002.parquet`).
Ingest writes every recording to a file of its own, once; the metadata alone is read before. Files in a store are read
by range, a row group at a time.
"""

from __future__ import annotations

import hashlib
import io
import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from flowse.audio.recordings import AUDIO_SUFFIXES
from flowse.data.content import file_facts
from flowse.data.manifest import SPLITS, Kind, Split, Utterance
from flowse.errors import UserError
from flowse.files import write_bytes
from flowse.names import why_unsafe
from flowse.refusal import Refusal
from pipelines.corpora import paths_digest, utterance
from pipelines.corpora.languages import canonical
from pipelines.engine.archives import Ranges
from pipelines.engine.remote_tree import is_in_store
from pipelines.engine.store import Store

LICENCE = ""
MADE_OF_FILES = True
_AT_ONCE_BYTES = 1 << 20
_LISTED_S = 600.0  # so long a process believes a listing of a store
_BATCH_ROWS = 10_000


@dataclass(frozen=True, kw_only=True)
class Options:
    """Settings of a data set.

    Attributes:
        data: Folder of the parquet files, or one file, absolute; or a store, s3://bucket/prefix.
        audio: Column of the recordings, each `{bytes, path}`.
        text: Column of the transcripts; a data set without it has none.
        speaker: Column of the speakers; a data set without it has none.
        language_column: Column of the languages, if there is one.
        language: Language of rows that name none.
        use_split: Whether the beginning of a file's name (train, dev, validation, test) decides the split; otherwise
            ingest chooses.
    """

    data: str
    audio: str = "audio"
    text: str = "text"
    speaker: str = "speaker_id"
    language_column: str = "language"
    language: str = ""
    use_split: bool = True


@dataclass(frozen=True)
class _File:
    """A parquet file, in a folder or in a store.

    Attributes:
        name: Its path below `options.data`.
        place: Its path, or its URL.
        facts: Changes when its content does.
        size: In bytes.
        store: URL of the store; empty: it lies in a folder.
    """

    name: str
    place: str
    facts: str
    size: int = 0
    store: str = ""

    def open(self) -> Any:
        """Return it as pyarrow takes it."""
        if not self.store:
            return self.place
        store = Store(self.store)
        return io.BufferedReader(Ranges(lambda begin, end: store.get(self.name, begin, end), self.size), _AT_ONCE_BYTES)


def listing_digest(root: Path, options: Options) -> str:
    """Hash names, and sizes and times or etags, of the parquet files."""
    if is_in_store(options.data):
        digest = hashlib.sha256(json.dumps(asdict(options), sort_keys=True).encode())
        for file in _files(options):
            digest.update(f"{file.name}:{file.facts}\n".encode())
        return digest.hexdigest()
    place = Path(options.data).expanduser()
    folder = place if place.is_dir() else place.parent
    return paths_digest(folder, options, [Path(file.place) for file in _files(options)])


def read(root: Path, name: str, kind: Kind, options: Options, seed: int) -> Iterator[Utterance]:
    """Yield a row for every row of the files, in their order; no audio is read.

    Raises:
        UserError: There is no parquet file, or one is damaged or has no such audio column.
    """
    files = _files(options)
    if not files:
        raise UserError(
            f"{options.data}: corpus {name!r} has no parquet file there; say in options.data where they lie "
            "(`dataset.to_parquet` writes one)"
        )
    for file in files:
        split = _split(file.name.rpartition("/")[2]) if options.use_split else None
        for position, row in enumerate(_rows(file, name, options)):
            suffix = Path(row["path"] or "").suffix.lower()
            yield utterance(
                name,
                kind,
                f"{_folder(file)}/{position:08d}{suffix if suffix in AUDIO_SUFFIXES else '.wav'}",
                text=row[options.text],
                speaker=row[options.speaker],
                language=canonical(row[options.language_column] or (options.language if kind == "speech" else "")),
                split=split,
            )


def make(root: Path, name: str, options: Options, seed: int, utterance: Utterance) -> None:
    """Write the recording of a row to its file, as it is encoded in the data set.

    Raises:
        Refusal: The row has no bytes: the data set names files that were not packed into it.
    """
    folder, _, rest = utterance.path.rpartition("/")
    file = next(file for file in _files(options) if _folder(file) == folder)
    position = int(rest.partition(".")[0])
    group, within = _place(file, position)
    content = _group(file, group, options.audio)[within].get("bytes")
    if not content:
        raise Refusal.failed(
            "not_found", f"{utterance.path}: {file.name} holds no bytes in row {position}; pack the audio into it"
        )
    path = root / utterance.path
    if not (path.is_file() and path.read_bytes() == content):
        write_bytes(path, content)


def _files(options: Options) -> list[_File]:
    """List the parquet files.

    Raises:
        UserError: The store does not answer, or lets nobody in.
    """
    if is_in_store(options.data):
        return list(_objects(options.data.rstrip("/"), int(time.monotonic() // _LISTED_S)))
    place = Path(options.data).expanduser()
    paths = sorted(place.glob("**/*.parquet")) if place.is_dir() else [place] if place.is_file() else []
    folder = place if place.is_dir() else place.parent
    return [_File(path.relative_to(folder).as_posix(), str(path), file_facts(path)) for path in paths]


@lru_cache(maxsize=4)
def _objects(url: str, when: int) -> tuple[_File, ...]:
    """List the parquet files of a store; a process does so once in a while."""
    store = Store(url)
    store.require_answer()
    found = {name: entry for name, entry in store.each() if name.endswith(".parquet") and not why_unsafe(name)}
    return tuple(
        _File(name, f"{url}/{name}", f"({entry.size}, {entry.etag})", entry.size, url) for name, entry in found.items()
    )


def _folder(file: _File) -> str:
    """Return the folder below the root that takes the recordings of a file: its path without the suffix."""
    return file.name.removesuffix(".parquet")


def _split(name: str) -> Split | None:
    begin = name.lower().replace("validation", "dev").replace("valid", "dev")
    return next((split for split in SPLITS if begin.startswith(split)), None)


def _rows(file: _File, corpus: str, options: Options) -> Iterator[dict[str, str]]:
    """Yield what a file says of its recordings; a column that it does not have is empty."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = (options.text, options.speaker, options.language_column)
    try:
        table = pq.ParquetFile(file.open())
        schema = table.schema_arrow
        if options.audio not in schema.names or not pa.types.is_struct(schema.field(options.audio).type):
            raise UserError(
                f"{file.place}: corpus {corpus!r}: no audio column {options.audio!r} of {{bytes, path}}; it has "
                f"{', '.join(schema.names)}: name one in options.audio"
            )
        there = [column for column in columns if column in schema.names]
        for batch in table.iter_batches(_BATCH_ROWS, columns=[f"{options.audio}.path", *there]):
            for row in batch.to_pylist():
                path = (row.get(options.audio) or {}).get("path")
                said = {column: row.get(column) for column in columns}
                yield {"path": path or "", **{key: "" if value is None else str(value) for key, value in said.items()}}
    except pa.ArrowException as error:
        raise UserError(
            f"{file.place}: is damaged, or no parquet: {str(error).splitlines()[0]}; fetch it again"
        ) from None


def _place(file: _File, position: int) -> tuple[int, int]:
    """Return the row group of a row, and its place in it."""
    metadata = _metadata(file)
    for group in range(metadata.num_row_groups):
        count = metadata.row_group(group).num_rows
        if position < count:
            return group, position
        position -= count
    raise Refusal.failed("not_found", f"{file.place}: is shorter than when it was listed; run again")


@lru_cache(maxsize=16)
def _metadata(file: _File) -> Any:
    import pyarrow.parquet as pq

    return pq.read_metadata(file.open())


@lru_cache(maxsize=2)
def _group(file: _File, group: int, audio: str) -> list[dict[str, Any]]:
    """Return the recordings of a row group; rows are asked for in order, so that each group is read about once."""
    import pyarrow.parquet as pq

    rows: list[dict[str, Any]] = (
        pq.ParquetFile(file.open()).read_row_group(group, columns=[audio]).column(audio).to_pylist()
    )
    return [row or {} for row in rows]
