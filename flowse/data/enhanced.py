"""Enhanced recordings in tars, with a manifest of their byte offsets from which files are unpacked."""

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

from flowse.audio.waveform import OVERSHOOT_DB
from flowse.data.manifest import Utterance
from flowse.data.parquet import read_rows, write_rows
from flowse.files import atomic_path
from flowse.names import UnsafeName, bounded, join_inside, readable, why_too_long, why_unsafe
from flowse.refusal import Refusal

FLAC_CHANNELS = 8
"""Largest number of channels that FLAC can hold."""

_WAV_BYTES = 4_000_000_000
"""Largest WAV file, in bytes: its sizes have 32 bits; the header needs some room."""


@dataclass(frozen=True, kw_only=True)
class Enhanced(Utterance):
    """The manifest row of an enhanced recording: the columns of the original recording, and where the result is stored.

    Attributes:
        file: Path that `unpack` writes: the recording's own path below its corpus' name; WAV and FLAC keep their
            format.
        samples: Number of samples in each channel.
        bits: Bits of a sample, 16 or 24.
        peak_before: Largest magnitude of the original recording; full scale is 1.
        peak: Largest magnitude of the enhanced recording.
        tar: File name of the tar, which stands beside the manifest part.
        audio_offset: Offset of the FLAC's first byte in the tar.
        audio_bytes: Length of the FLAC, in bytes.
        json_offset: Offset of the JSON's first byte in the tar.
        json_bytes: Length of the JSON, in bytes.
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
    """Return the relative path that an enhanced recording is unpacked to; `join_inside` takes it.

    A path that could lead out of the target folder is replaced by the recording's id; a part of it that would be longer
    than file systems hold loses its middle for a hash.

    Args:
        row: The original recording, with its measured length and channels.
        samples: Number of samples in each channel.
        bits: Bits of a sample.
        whole: Whether the recording is the whole file; the name of a segment carries its times in milliseconds.
    """
    path = PurePosixPath(row.path)
    if why_unsafe(path.as_posix()) and not why_too_long(path.as_posix()):
        path = PurePosixPath(row.utt_id.removeprefix(f"{row.corpus.lower()}/"))
    if not whole:
        end_s = row.offset_s + row.duration_s
        path = path.with_name(f"{path.stem}-{row.offset_s * 1000:09.0f}-{end_s * 1000:09.0f}{path.suffix}")
    fits = samples * row.channels * bits // 8 < _WAV_BYTES
    if not (path.suffix.lower() == ".flac" or (path.suffix.lower() == ".wav" and fits)):
        # The old suffix stays in the name: a.mp3 and a.ogg may stand side by side.
        path = path.with_name(f"{path.name}.flac")
    return PurePosixPath(row.corpus, *(bounded(part) for part in path.parts)).as_posix()


def write_flac(path: Path, pieces: Iterable[Float32[np.ndarray, "C N"]], rate: int, channels: int, bits: int) -> int:
    """Write consecutive pieces of a recording as FLAC; the bytes do not depend on where the pieces are cut.

    Args:
        path: File to write.
        pieces: Samples with full scale ±1.
        rate: Sample rate, in Hz.
        channels: Number of channels of every piece; at most `FLAC_CHANNELS`.
        bits: Bits of a sample, 16 or 24.

    Returns:
        Number of samples written in each channel.

    Raises:
        Refusal: A sample is beyond full scale by more than `OVERSHOOT_DB`: it would be clipped.
    """
    written = 0
    scale = 2.0 ** (bits - 1)
    with sf.SoundFile(path, "w", rate, channels, subtype=f"PCM_{bits}", format="FLAC") as file:
        for piece in pieces:
            refuse_clipping(piece)
            integers = np.clip(np.rint(piece.T.astype(np.float64) * scale), -scale, scale - 1).astype(np.int32)
            file.write(np.ascontiguousarray(integers << (32 - bits)))
            written += piece.shape[1]
    return written


def refuse_clipping(piece: Float32[np.ndarray, "C N"]) -> None:
    """Refuse samples that integers cannot hold; overshoot by up to `OVERSHOOT_DB` saturates, which nobody hears.

    Raises:
        Refusal: A sample is further beyond full scale.
    """
    peak = float(np.abs(piece).max(initial=0.0))
    if peak > 10 ** (OVERSHOOT_DB / 20):
        raise Refusal(
            "beyond_full_scale",
            f"a peak of {peak:.5g} would be clipped at 1; is the recording scaled as integers? Divide it by 32768 or "
            "lower its gain",
        )


class TarWriter:
    """Writes a tar and its part of the manifest, without times and owners: equal recordings give equal bytes.

    Use it as a context manager; the manifest part is written when the context ends without an exception.

    Example:
        >>> with TarWriter(folder / "part.tar", folder / "part.parquet", "part.tar") as tar:
        ...     tar.add(row, flac, {}, file="c/a.flac", samples=48_000, bits=16, peak_before=0.5, peak=0.4)
    """

    def __init__(self, path: Path, manifest: Path, name: str) -> None:
        """Open the tar.

        Args:
            path: File to write the tar to; may have a temporary name.
            manifest: File to write the manifest part to; may have a temporary name.
            name: Final file name of the tar, which the manifest records.
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
            row: The original recording.
            flac: File with the enhanced samples.
            about: Further entries of the recording's JSON, beside the row and `facts`.
            facts: Further columns of `Enhanced`: file, samples, bits, peak_before, peak.
        """
        text = json.dumps({**asdict(row), **facts, **about}, ensure_ascii=False, sort_keys=True).encode()
        with flac.open("rb") as file:
            audio = self._member(f"{row.utt_id}.flac", flac.stat().st_size, file)
        description = self._member(f"{row.utt_id}.json", len(text), io.BytesIO(text))
        self._rows.append(
            Enhanced(
                **{**asdict(row), **facts},
                tar=self._name,
                audio_offset=audio[0],
                audio_bytes=audio[1],
                json_offset=description[0],
                json_bytes=description[1],
            )
        )

    def _member(self, name: str, size: int, file: Any) -> tuple[int, int]:
        info = tarfile.TarInfo(name)
        info.size, info.mode, info.mtime = size, 0o644, 0
        self._tar.addfile(info, file)
        return self._tar.offset - (size + -size % tarfile.BLOCKSIZE), size


def copy_flac(row: Enhanced, folder: Path, target: Path) -> None:
    """Copy a recording's FLAC out of its tar, block by block.

    Args:
        row: The recording's row of the manifest.
        folder: Folder of the manifest and the tar.
        target: File to write.

    Raises:
        ValueError: The tar ends before the recording does, or lies outside the folder; the message names the tar.
    """
    left = row.audio_bytes
    with join_inside(folder, row.tar).open("rb") as tar, target.open("wb") as file:
        tar.seek(row.audio_offset)
        while left:
            block = tar.read(min(left, 1 << 20))
            if not block:
                raise ValueError(f"{folder / row.tar} ends before {row.utt_id} does; `verify --mend`, and run again")
            file.write(block)
            left -= len(block)


def unpack(parts: Iterable[Path], out: Path, *, overwrite: bool = False, corpus: str = "") -> Iterator[Enhanced]:
    """Write enhanced recordings as files, each whole or absent, and yield the row of each file that was written.

    Args:
        parts: The parts of the manifest; their tars stand beside them.
        out: Folder for the files `<corpus>/<the recording's own path>`.
        overwrite: Whether existing files are replaced.
        corpus: Name of the only corpus to unpack; empty: all corpora.

    Raises:
        FileExistsError: A file exists and `overwrite` is false; the file is left as it is.
        ValueError: A tar is truncated or damaged; or, before anything is written, a name leads out of `out` or out of
            the folder of the tars, or two recordings have the same name.
    """
    known = list(parts)
    _check_names(known, out, corpus)
    for part, row in _rows(known, corpus):
        _unpack_one(row, part.parent, join_inside(out, row.file), overwrite)
        yield row


def _rows(parts: Iterable[Path], corpus: str) -> Iterator[tuple[Path, Enhanced]]:
    for part in parts:
        for row in read_rows(part, Enhanced):
            if corpus in ("", row.corpus):
                yield part, row


def _check_names(parts: Iterable[Path], out: Path, corpus: str) -> None:
    """Refuse names that the stage enhance did not write: a part that was changed could write anywhere.

    Raises:
        ValueError: Naming the part and the name.
    """
    names: set[str] = set()
    for part, row in _rows(parts, corpus):
        try:
            join_inside(out, row.file)
            join_inside(part.parent, row.tar)
        except UnsafeName as error:
            raise ValueError(f"{part}: {error}; the part was changed: `verify --mend`, and run again") from None
        if row.file in names:
            raise ValueError(f"{part}: two recordings are named {readable(row.file)}; run enhance again with --force")
        names.add(row.file)


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
        except sf.LibsndfileError as error:
            raise ValueError(
                f"{folder / row.tar}: {row.utt_id} is damaged ({error}); `verify --mend`, and run again"
            ) from None
        finally:
            flac.unlink(missing_ok=True)


def _as_wav(flac: Path, path: Path, bits: int) -> None:
    """Decode FLAC to WAV without changing a sample, block by block."""
    with (
        sf.SoundFile(flac) as source,
        sf.SoundFile(path, "w", source.samplerate, source.channels, subtype=f"PCM_{bits}", format="WAV") as target,
    ):
        for block in source.blocks(blocksize=1 << 18, dtype="int32", always_2d=True):
            target.write(block)
