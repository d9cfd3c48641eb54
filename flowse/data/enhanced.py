"""Enhanced recordings in tars: a manifest knows where in them each lies, so that they become files again."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any

import numpy as np
import soundfile as sf
from jaxtyping import Float32

from flowse.data.manifest import Utterance
from flowse.data.parquet import read_rows, write_rows
from flowse.files import atomic_path

FLAC_CHANNELS = 8
"""As many as FLAC holds."""

_WAV_BYTES = 4_000_000_000
"""What a WAV file's 32-bit sizes can say, with room for the header."""


@dataclass(frozen=True, kw_only=True)
class Enhanced(Utterance):
    """One enhanced recording: what was known of it before, and where it lies now.

    Attributes:
        file: Path that `unpack` gives it: its own, below its corpus' name; WAV and FLAC keep their format.
        samples: Of each channel.
        bits: Of a sample, 16 or 24.
        peak_before: Largest magnitude of the recording, 1 at full scale.
        peak: Largest magnitude after enhancement.
        tar: File name of the tar, beside the manifest part.
        audio_offset: First byte of the FLAC in the tar.
        audio_bytes: Length of it.
        json_offset: First byte of the JSON.
        json_bytes: Length of it.
    """

    file: str
    samples: int
    bits: int
    peak_before: float
    peak: float
    tar: str
    audio_offset: int
    audio_bytes: int
    json_offset: int
    json_bytes: int


def file_name(row: Utterance, samples: int, bits: int, whole: bool) -> str:
    """Return the path, relative and within the folder, that an enhanced recording is unpacked to.

    Args:
        row: The recording, as measured.
        samples: Of each channel.
        bits: Of a sample.
        whole: Whether it is the whole file; a segment gets its times, in milliseconds, into its name.
    """
    path = PurePosixPath(row.path)
    if path.is_absolute() or ".." in path.parts or not path.name:
        path = PurePosixPath(row.utt_id.removeprefix(f"{row.corpus.lower()}/"))
    if not whole:
        end_s = row.offset_s + row.duration_s
        path = path.with_name(f"{path.stem}-{row.offset_s * 1000:09.0f}-{end_s * 1000:09.0f}{path.suffix}")
    fits = samples * row.channels * bits // 8 < _WAV_BYTES
    if not (path.suffix.lower() == ".flac" or (path.suffix.lower() == ".wav" and fits)):
        # Its whole name stays: a.mp3 and a.ogg may lie side by side.
        path = path.with_name(f"{path.name}.flac")
    return (PurePosixPath(row.corpus) / path).as_posix()


def write_flac(path: Path, pieces: Iterable[Float32[np.ndarray, "C N"]], rate: int, channels: int, bits: int) -> int:
    """Write consecutive pieces of a recording; the same samples give the same bytes, however they are cut.

    Args:
        path: Where to.
        pieces: Full scale ±1; what lies beyond saturates.
        rate: In Hz.
        channels: Of all pieces; at most `FLAC_CHANNELS`.
        bits: 16 or 24.

    Returns:
        How many samples of each channel were written.
    """
    written = 0
    scale = 2.0 ** (bits - 1)
    with sf.SoundFile(path, "w", rate, channels, subtype=f"PCM_{bits}", format="FLAC") as file:
        for piece in pieces:
            integers = np.clip(np.rint(piece.T.astype(np.float64) * scale), -scale, scale - 1).astype(np.int32)
            file.write(np.ascontiguousarray(integers << (32 - bits)))
            written += piece.shape[1]
    return written


class TarWriter:
    """Writes one tar and its part of the manifest: no times, no owners, so that equal recordings give equal bytes.

    Use as a context manager; the manifest part is written at the end.
    """

    def __init__(self, path: Path, manifest: Path, name: str) -> None:
        """Open the tar.

        Args:
            path: Where to write it; may be a temporary name.
            manifest: Where to write the manifest part; likewise.
            name: File name under which the tar will be known to its readers.
        """
        self._tar = tarfile.open(path, "w", format=tarfile.GNU_FORMAT)  # noqa: SIM115
        self._manifest, self._name = manifest, name
        self._rows: list[Enhanced] = []

    def __enter__(self) -> TarWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._tar.close()
        if error is None:
            write_rows(self._manifest, Enhanced, self._rows)

    def add(self, row: Utterance, flac: Path, about: Mapping[str, Any], **facts: Any) -> None:
        """Append a recording.

        Args:
            row: What is known of it.
            flac: Its enhanced samples.
            about: What its JSON says, beside the row.
            facts: Further columns of `Enhanced`: file, samples, bits, peak_before, peak.
        """
        text = json.dumps({**asdict(row), **facts, **about}, ensure_ascii=False, sort_keys=True).encode()
        with flac.open("rb") as file:
            audio = self._member(f"{row.utt_id}.flac", flac.stat().st_size, file)
        said = self._member(f"{row.utt_id}.json", len(text), io.BytesIO(text))
        self._rows.append(
            Enhanced(
                **{**asdict(row), **facts},
                tar=self._name,
                audio_offset=audio[0],
                audio_bytes=audio[1],
                json_offset=said[0],
                json_bytes=said[1],
            )
        )

    def _member(self, name: str, size: int, file: Any) -> tuple[int, int]:
        info = tarfile.TarInfo(name)
        info.size, info.mode, info.mtime = size, 0o644, 0
        self._tar.addfile(info, file)
        return self._tar.offset - (size + -size % tarfile.BLOCKSIZE), size


def copy_flac(row: Enhanced, folder: Path, target: Path) -> None:
    """Copy a recording's FLAC out of its tar, a block at a time.

    Args:
        row: From the manifest.
        folder: Where manifest and tar lie.
        target: File to write.

    Raises:
        ValueError: The tar ends before; the message names it.
    """
    left = row.audio_bytes
    with (folder / row.tar).open("rb") as tar, target.open("wb") as file:
        tar.seek(row.audio_offset)
        while left:
            block = tar.read(min(left, 1 << 20))
            if not block:
                raise ValueError(f"{folder / row.tar} ends before {row.utt_id} does; `verify --mend`, and run again")
            file.write(block)
            left -= len(block)


def unpack(parts: Iterable[Path], out: Path, *, overwrite: bool = False, corpus: str = "") -> Iterator[Enhanced]:
    """Write enhanced recordings to a tree of files, each whole or absent, and yield their rows as they are written.

    Args:
        parts: The manifest's parts; their tars lie beside them.
        out: Folder to write below: `<corpus>/<the recording's own path>`.
        overwrite: Replace files that exist.
        corpus: Only this corpus; empty: all.

    Raises:
        FileExistsError: A file is there already; it is left as it is.
        ValueError: A tar is cut.
    """
    for part in parts:
        for row in read_rows(part, Enhanced):
            if corpus in ("", row.corpus):
                _unpack_one(row, part.parent, out / row.file, overwrite)
                yield row


def _unpack_one(row: Enhanced, folder: Path, target: Path, overwrite: bool) -> None:
    if target.exists() and not overwrite:
        raise FileExistsError(f"{target} exists; choose an empty folder, or replace files with --overwrite")
    with atomic_path(target) as temporary:
        if target.suffix.lower() != ".wav":
            copy_flac(row, folder, temporary)
            return
        flac = temporary.with_name(f"{temporary.name}.flac")
        try:
            copy_flac(row, folder, flac)
            _as_wav(flac, temporary, row.bits)
        finally:
            flac.unlink(missing_ok=True)


def _as_wav(flac: Path, path: Path, bits: int) -> None:
    """Decode FLAC to WAV, sample by sample the same, a block at a time."""
    with (
        sf.SoundFile(flac) as source,
        sf.SoundFile(path, "w", source.samplerate, source.channels, subtype=f"PCM_{bits}", format="WAV") as target,
    ):
        for block in source.blocks(blocksize=1 << 18, dtype="int32", always_2d=True):
            target.write(block)
