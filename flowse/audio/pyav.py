"""Recordings in m4a and other containers that libsndfile does not read, decoded with PyAV where it is installed."""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from flowse.refusal import SURROUNDINGS, Refusal

SUFFIXES = frozenset({".m4a", ".m4b", ".aac", ".mp4"})
"""File names that end so are PyAV's; files of other names may be (`can_open`)."""

_PREROLL_S = 0.25
"""Seconds that are decoded and discarded before a segment: AAC frames overlap, and SBR needs some frames to start."""


@contextmanager
def _stream(path: Path) -> Iterator[tuple[Any, Any]]:
    """Open a file with PyAV and yield its container and its first audio stream.

    Raises:
        Refusal: PyAV is not installed, the file has no audio, or FFmpeg fails while the file is open.
    """
    try:
        # PyAV is optional: an import by name keeps mypy from asking for it where it is not installed.
        av = importlib.import_module("av")
    except ImportError as error:
        raise Refusal.failed(
            "undecodable", f"{path}: {path.suffix} needs PyAV; `pip install av`, or convert it to FLAC"
        ) from error
    try:
        with av.open(str(path), metadata_errors="replace") as container:
            if not container.streams.audio:
                raise Refusal.failed("undecodable", f"{path} has no audio stream; fetch it again")
            stream = container.streams.audio[0]
            if (
                stream.codec_context is None
                or not stream.codec_context.sample_rate
                or not stream.codec_context.channels
            ):
                raise Refusal.failed(
                    "undecodable",
                    f"{path} names a codec that FFmpeg does not know; convert it to FLAC, or fetch it again",
                )
            yield container, stream
    except av.FFmpegError as error:
        if isinstance(error, OSError) and error.errno in SURROUNDINGS:
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise Refusal.failed("undecodable", f"{path}: {error}; convert it to FLAC, or fetch it again") from error


def can_open(path: Path) -> bool:
    """Whether PyAV is installed and finds audio that it can decode."""
    try:
        with _stream(path):
            return True
    except Refusal:
        return False


def _declared_frames(container: Any, stream: Any) -> int | None:
    """Return how many samples the header declares, without the encoder's priming; None if it declares no length."""
    # For other containers (raw AAC) FFmpeg only guesses the duration from the bit rate.
    if "mp4" not in container.format.name or not stream.duration:
        return None
    units = max(stream.duration, _indexed_end(stream))
    frames: int = round(units * stream.time_base * stream.codec_context.sample_rate)
    return frames


def _indexed_end(stream: Any) -> int:
    """Return where the last packet of the index ends if that is well after the end that the header declares; else 0.

    The header's end cuts off what fills up the last packet; an end that cuts off whole packets is wrong.
    """
    index = stream.index_entries
    count = len(index)
    if count < 2:
        return 0
    last = index[count - 1].timestamp
    packet = last - index[count - 2].timestamp
    end = int(last + packet - (stream.start_time or 0))
    return end if end > stream.duration + 2 * packet else 0


def probe_header(path: Path, most: int) -> tuple[int, int, int]:
    """Return frames, sample rate in Hz and channels of a file, each header read once.

    Args:
        path: The file.
        most: As in `read_segment`: a file whose header declares no length is decoded.

    Raises:
        Refusal: The file has no audio, or none that can be decoded.
    """
    status = path.stat()
    return _header(path, status.st_size, status.st_mtime_ns, most)


@lru_cache(maxsize=16)
def _header(path: Path, size: int, changed_ns: int, most: int) -> tuple[int, int, int]:
    """Read a header once for all segments of a file: the header of ten hours of m4a takes 50 ms."""
    with _stream(path) as (container, stream):
        frames = _declared_frames(container, stream)
        rate, channels = int(stream.codec_context.sample_rate), int(stream.codec_context.channels)
    if frames is None:
        samples, rate, _, _ = read_segment(path, 0.0, None, most)
        channels, frames = samples.shape
    if not frames:
        raise Refusal.failed("empty_file", f"{path} has a header and no samples; fetch it again")
    return frames, rate, channels


def read_segment(
    path: Path, offset_s: float, duration_s: float | None, most: int
) -> tuple[Float32[np.ndarray, "C N"], int, int, int]:
    """Decode a segment of a file whose format libsndfile does not know.

    Args:
        path: The file.
        offset_s: Start of the segment, in seconds.
        duration_s: Length of the segment, in seconds; None: to the end of the file.
        most: Samples, over all channels, that may be decoded.

    Returns:
        Samples, their rate, the index of the first sample, and the number of samples that the segment should have.

    Raises:
        Refusal: The file has no audio, is truncated, or has more samples than `most`.
    """
    with _stream(path) as (container, stream):
        rate = int(stream.codec_context.sample_rate)
        declared = _declared_frames(container, stream)
        start = round(offset_s * rate)
        stop = declared if duration_s is None else start + round(duration_s * rate)
        # Encoders fill the last frame up with silence, which is not part of the recording.
        last = min((end for end in (declared, stop) if end is not None), default=None)
        origin = stream.start_time or 0
        if offset_s > _PREROLL_S and container.format.name not in ("wav", "aiff"):  # seeking there is not exact
            container.seek(origin + int((offset_s - _PREROLL_S) / stream.time_base), stream=stream)
        samples = _assemble(_decoded(path, container, stream, origin), start, last, most)
    return samples, rate, start, samples.shape[1] if stop is None else stop - start


def _decoded(path: Path, container: Any, stream: Any, origin: int) -> Iterator[tuple[int, np.ndarray]]:
    """Yield pieces ``[channels, samples]``, each with the index of its first sample, by the stream's timestamps."""
    av = importlib.import_module("av")
    rate = int(stream.codec_context.sample_rate)
    # Interleaved: of planar samples, PyAV reads beyond the first eight channels where there is nothing.
    interleaved = av.AudioResampler(format="flt")
    # Coarse timestamps jitter by one tick; only a larger step is a gap.
    tick = math.ceil(stream.time_base * rate)
    following: int | None = None
    kind: tuple[object, ...] | None = None
    try:
        for frame in container.decode(stream):
            found = (frame.layout.nb_channels, frame.format.name, frame.sample_rate)
            if kind not in (None, found):
                raise Refusal.failed(
                    "mixed_links", f"{path} changes its sample rate or channels from {kind} to {found}; split it there"
                )
            kind = found
            begin = round((frame.pts - origin) * frame.time_base * rate) if frame.pts is not None else following or 0
            if following is not None and abs(begin - following) <= tick:
                begin = following
            following = begin + frame.samples
            converted = [part.to_ndarray().reshape(-1, found[0]).T for part in interleaved.resample(frame)]
            yield begin, np.concatenate(converted, axis=1).astype(np.float32, copy=False)
    except av.FFmpegError as error:
        if following is None:
            raise
        raise Refusal.failed(
            "truncated", f"{path} cannot be decoded to the end ({error.strerror}); fetch it again"
        ) from error


def _assemble(
    pieces: Iterator[tuple[int, np.ndarray]], start: int, stop: int | None, most: int
) -> Float32[np.ndarray, "C N"]:
    """Put decoded pieces together, from sample ``start`` up to ``stop``; silence fills the gaps between them."""
    parts: list[np.ndarray] = []
    channels, position = 1, start
    for begin, piece in pieces:
        channels = piece.shape[0]
        if stop is not None and begin >= stop:
            break
        piece = piece[:, max(position - begin, 0) : None if stop is None else stop - begin]
        if not piece.shape[1]:
            continue
        gap = max(begin - position, 0)
        if (position - start + gap + piece.shape[1]) * channels > most:
            raise Refusal.failed(
                "too_large",
                f"more than {most} samples, or times far apart; list segments of the file in the corpus' table",
            )
        parts += [np.zeros((channels, gap), np.float32), piece]
        position += gap + piece.shape[1]
    return np.concatenate(parts, axis=1) if parts else np.zeros((channels, 0), np.float32)
