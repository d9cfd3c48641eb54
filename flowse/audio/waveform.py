"""Waveforms: reading from files, levels, sample rates, and lossless FLAC bytes for shards."""

from __future__ import annotations

import errno
import importlib
import io
import math
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import soundfile as sf
import soxr
from jaxtyping import Float, Float32, Int16

from flowse.audio.containers import HEAD_BYTES, layout_of
from flowse.audio.offset import offset_of, without_offset
from flowse.audio.sndfile import SndfileSource, read_error
from flowse.fetching import fetched
from flowse.refusal import SURROUNDINGS, Refusal

Reason = Literal[
    "not_found",
    "empty_file",
    "git_lfs_pointer",
    "html_instead_of_audio",
    "undecodable",
    "truncated",
    "mixed_links",
    "too_large",
    "nan_samples",
    "silent",
]
"""Why audio was refused: the values of `reason` in reject rows."""

SILENCE_PEAK_DBFS = -70.0
"""A recording with a lower peak holds nothing to enhance: it uses only the last 4 bits of 16-bit audio."""

CANCELLATION_DB = 12.0
"""If the mean of the channels is this much weaker than the strongest channel, they cancel each other.

The mean of eight unrelated channels is 9 dB weaker.
"""

ACTIVITY_MARGIN_DB = 15.9
"""A frame counts as active down to this far below the active level (ITU-T P.56)."""

SEGMENT_SLACK_S = 0.05
"""A segment may reach this far past the end of its file, in seconds: corpora round their times."""

HIGH_RESOLUTION = frozenset({"PCM_24", "PCM_32", "FLOAT", "DOUBLE"})
"""Sample formats (`sample_format`) that hold more than 16 bits."""

_AV_SUFFIXES = frozenset({".m4a", ".m4b", ".aac", ".mp4"})
_AV_PREROLL_S = 0.25
"""Seconds that are decoded and discarded before a segment: AAC frames overlap, and SBR needs some frames to start."""

OVERSHOOT_DB = 0.1
"""By how much samples may exceed full scale where they are written as integers: they saturate, and nobody hears it."""

_CAN_OVERSHOOT = frozenset({"FLOAT", "DOUBLE", "VORBIS", "OPUS", "MPEG_LAYER_III", ""})
_PEAK_SEARCH_S = 600

MAX_SAMPLES = 2**29
"""Most samples, over all channels, that are read at once: 2 GiB, or three hours of one channel at 48 kHz."""


@dataclass(frozen=True, kw_only=True)
class AudioInfo:
    """The contents of a file's header.

    Attributes:
        frames: Number of samples in each channel.
        sample_rate: In Hz.
        channels: Number of channels.
    """

    frames: int
    sample_rate: int
    channels: int

    @property
    def duration_s(self) -> float:
        """Length in seconds."""
        return self.frames / self.sample_rate


def probe(path: Path) -> AudioInfo:
    """Read a file's header without decoding any audio.

    Raises:
        Refusal: The file is missing, empty, no audio, or visibly truncated (WAV, AIFF, Ogg). A truncated FLAC, mp3 or
            m4a is noticed only when it is read.
    """
    path = fetched(path)
    source = _open(path, whole=True)
    if source is None:
        return _probe_with_av(path)
    with source:
        source.refuse_truncated()
        if not source.frames:
            raise Refusal.failed("empty_file", f"{path} has a header and no samples; fetch it again")
        return AudioInfo(frames=source.frames, sample_rate=source.rate, channels=source.channels)


def read(
    path: Path, *, offset_s: float = 0.0, duration_s: float | None = None
) -> tuple[Float32[np.ndarray, "C N"], int]:
    """Read a file, or a segment of it, with its own channels and sample rate.

    The formats are WAV, AIFF, FLAC, Ogg (Vorbis, Opus) and mp3, and m4a, mp4 and aac where PyAV is installed. Only the
    segment is decoded, so a short segment of a ten-hour file is cheap. Its samples are those that a reading of the
    whole file has there (except that AAC decoders may fill bands with random noise, which differs from reading to
    reading). mp3 and raw AAC have no index: everything before the segment is scanned, which takes 30 ms for a quarter
    of an hour.

    Args:
        path: The file.
        offset_s: Start of the segment, in seconds.
        duration_s: Length of the segment, in seconds; the segment reaches to the end of the file if not given.

    Returns:
        Samples ``[channels, samples]`` with full scale ±1, and their rate in Hz. `check` judges whether they can be
        used.

    Raises:
        Refusal: The file is missing, empty, no audio or truncated, or it ends before the segment does.
        ValueError: The segment's start or length is negative or not finite, or its length is 0.
        OSError: The storage fails (`flowse.refusal.SURROUNDINGS`); a later try may succeed.
    """
    if not 0 <= offset_s < math.inf or not (duration_s is None or 0 < duration_s < math.inf):
        raise ValueError(f"{path}: offset_s={offset_s} must be 0 or more, duration_s={duration_s} above 0")
    path = fetched(path)
    source = _open(path, whole=duration_s is None)
    if source is None:
        samples, rate, start, wanted = _read_with_av(path, offset_s, duration_s)
    else:
        samples, rate, start, wanted = _read_with_sndfile(path, source, offset_s, duration_s)
    if not samples.shape[1] and not start:
        raise Refusal.failed("empty_file", f"{path} has a header and no samples; fetch it again")
    if samples.shape[1] < wanted - SEGMENT_SLACK_S * rate or not samples.shape[1]:
        raise Refusal.failed(
            "truncated",
            f"{path} holds {samples.shape[1]} of {wanted} frames from {offset_s:.3f} s on; "
            "fetch it again, or correct the segment's times",
        )
    return samples, rate


def read_span(path: Path, start: int, stop: int, sample_rate: int) -> Float32[np.ndarray, "C N"]:
    """Read exactly the samples [start, stop) of a file, so that a long recording can be read piece by piece.

    Args:
        path: The file.
        start: Index of the first sample.
        stop: Index after the last sample; at most the number of frames that `probe` returns.
        sample_rate: The file's own sample rate, in Hz.

    Raises:
        Refusal: The file ends before `stop`, or a sample is not finite.
    """
    samples, _ = read(path, offset_s=start / sample_rate, duration_s=(stop - start) / sample_rate)
    if not np.isfinite(samples).all():
        raise Refusal("nan_samples", f"{path}: samples are not finite; encode it again")
    # Lossy formats may end some milliseconds earlier than their header says: silence makes the length exact.
    return np.pad(samples[:, : stop - start], ((0, 0), (0, max(0, stop - start - samples.shape[1]))))


def sample_format(path: Path) -> str:
    """Return libsndfile's name of a file's sample format, e.g. "PCM_24"; empty if libsndfile cannot read the file."""
    source = _open(fetched(path), whole=False)
    if source is None:  # m4a and the like
        return ""
    with source:
        return source.subtype


def gain_to_full_scale(path: Path, start: int, stop: int, sample_rate: int) -> float:
    """Return the factor that brings the samples [start, stop) of a file within ±1; 1 if they are.

    Floating-point files may be scaled as integers (±32,768), and loud mp3 files decode to more than ±1: integers would
    clip them. The file is decoded once, unless its sample format cannot exceed ±1.

    Args:
        path: The file.
        start: Index of the first sample.
        stop: Index after the last sample.
        sample_rate: The file's own sample rate, in Hz.

    Raises:
        Refusal: The file cannot be read to the end, or a sample is not finite.
    """
    if sample_format(path) not in _CAN_OVERSHOOT:
        return 1.0
    peak = 0.0
    for begin in range(start, stop, _PEAK_SEARCH_S * sample_rate):
        piece = read_span(path, begin, min(stop, begin + _PEAK_SEARCH_S * sample_rate), sample_rate)
        peak = max(peak, float(np.abs(piece).max(initial=0.0)))
    return 1.0 / peak if peak > 10 ** (OVERSHOOT_DB / 20) else 1.0


def read_mono(
    path: Path, sample_rate: int, offset_s: float = 0.0, duration_s: float | None = None
) -> Float32[np.ndarray, " N"]:
    """Read a file, or a segment of it, as one channel at a given sample rate.

    Args:
        path: The file.
        sample_rate: Sample rate of the result, in Hz.
        offset_s: Start of the segment, in seconds.
        duration_s: Length of the segment, in seconds; the segment reaches to the end of the file if not given.

    Raises:
        Refusal: The file is missing, empty, no audio or truncated, or it ends before the segment does.
        ValueError: The segment's start or length is negative, or its length is 0.
    """
    samples, rate = read(path, offset_s=offset_s, duration_s=duration_s)
    _refuse_too_large(path, round(samples.shape[1] * sample_rate / rate), 1)
    return resample(to_mono(samples), rate, sample_rate)


def check(samples: Float[np.ndarray, " N"], name: str = "the recording") -> None:
    """Refuse samples that cannot be used.

    Args:
        samples: One channel.
        name: The recording's name in the message, usually a path.

    Raises:
        Refusal: A sample is NaN or infinite, there are no samples, or the peak is under `SILENCE_PEAK_DBFS`; a
            constant offset is no peak.
    """
    broken = int(np.count_nonzero(~np.isfinite(samples)))
    if broken:
        raise Refusal("nan_samples", f"{name}: {broken} of {samples.size} samples are not finite; encode it again")
    offset = offset_of(samples)
    low, high = float(samples.min(initial=offset)), float(samples.max(initial=offset))
    peak_dbfs = _to_db(max(high - offset, offset - low) ** 2)
    if peak_dbfs < SILENCE_PEAK_DBFS:
        beside = f" beside a constant offset of {offset:.3g}" if offset else ""
        raise Refusal("silent", f"{name}: its peak is {peak_dbfs:.1f} dBFS{beside}, under {SILENCE_PEAK_DBFS:.0f}")


def to_mono(samples: Float32[np.ndarray, "C N"]) -> Float32[np.ndarray, " N"]:
    """Average the channels, or return the strongest channel if they cancel each other (if one is inverted, say)."""
    if len(samples) == 1:
        only: Float32[np.ndarray, " N"] = samples[0]
        return only
    mean: Float32[np.ndarray, " N"] = samples.mean(axis=0, dtype=np.float32)
    strongest: Float32[np.ndarray, " N"] = samples[int(np.square(samples, dtype=np.float64).mean(axis=1).argmax())]
    return strongest if level_dbfs(strongest) - level_dbfs(mean) > CANCELLATION_DB else mean


def resample(samples: Float[np.ndarray, " N"], rate: int, new_rate: int) -> Float[np.ndarray, " M"]:
    """Change the sample rate with soxr (high quality, linear phase, hence no delay).

    Returns:
        ``round(N * new_rate / rate)`` samples.

    Raises:
        ValueError: A rate is not positive.
    """
    if rate <= 0 or new_rate <= 0:
        raise ValueError(f"sample rates must be positive, got {rate} and {new_rate}")
    if rate == new_rate or not samples.size:
        return samples
    # soxr rounds the length by another rule than manifests and shards do.
    length = round(samples.size * new_rate / rate)
    resampled = soxr.resample(samples, rate, new_rate, quality="HQ")[:length]
    return np.pad(resampled, (0, length - resampled.size))


def level_dbfs(samples: Float[np.ndarray, " N"]) -> float:
    """Return the RMS level in dB relative to full scale (a square wave of ±1 has 0 dBFS); −inf for silence.

    A constant offset counts as no level (`flowse.audio.offset`).
    """
    if not samples.size:
        return -math.inf
    samples = without_offset(samples)
    length = 1024
    whole = samples.size // length * length
    rest = samples[whole:].astype(np.float64)
    return _to_db((float(_frame_powers(samples, length).sum()) * length + float(np.square(rest).sum())) / samples.size)


def active_level_dbfs(samples: Float[np.ndarray, " N"], rate: int, frame_s: float = 0.02) -> float:
    """Return the RMS level of the active parts of a recording, in dBFS; −inf for silence.

    Pauses do not count: appended silence leaves the level unchanged. Neither does a constant offset. As in ITU-T P.56,
    the active level is the level over the frames that lie less than `ACTIVITY_MARGIN_DB` below it; an iteration that
    only raises the level finds it.

    Args:
        samples: One channel.
        rate: Sample rate, in Hz.
        frame_s: Length of a frame, in seconds; an incomplete last frame is left out.
    """
    length = max(1, round(frame_s * rate))
    count = samples.size // length
    if not count:
        return level_dbfs(samples)
    samples = without_offset(samples)
    powers = _frame_powers(samples, length)
    level = float(powers.mean())
    while True:
        # The threshold only ever rises, so there are at most as many iterations as frames (a few, in practice).
        active = powers[powers > level * 10 ** (-ACTIVITY_MARGIN_DB / 10)]
        if not active.size or float(active.mean()) <= level:
            return _to_db(level)
        level = float(active.mean())


def _frame_powers(samples: Float[np.ndarray, " N"], length: int) -> Float[np.ndarray, " frames"]:
    """Return the mean square of each frame of `length` samples; an incomplete last frame is left out."""
    frames = samples[: samples.size // length * length].reshape(-1, length)
    # float32 is precise enough for about 1,000 samples and 4x faster than float64. einsum does not call BLAS here,
    # whose sums depend on its number of threads.
    powers: Float[np.ndarray, " frames"] = np.einsum("ij,ij->i", frames, frames).astype(np.float64) / length
    return powers


def set_level(samples: Float[np.ndarray, " N"], dbfs: float) -> Float[np.ndarray, " N"]:
    """Scale samples to an RMS level in dBFS; the peaks of the result may exceed ±1.

    Raises:
        ValueError: The samples are silent: no gain makes them louder.
    """
    level = level_dbfs(samples)
    if level == -math.inf:
        raise ValueError("silence cannot be brought to a level; see check()")
    return (samples * 10 ** ((dbfs - level) / 20)).astype(samples.dtype)


def as_int16(samples: Float[np.ndarray, " N"]) -> Int16[np.ndarray, " N"]:
    """Round to 16-bit integers, without dither; samples beyond full scale saturate, they never wrap around.

    Args:
        samples: Full scale ±1.

    Raises:
        ValueError: A sample is not finite.
    """
    if not np.isfinite(samples).all():
        raise ValueError("samples that are not finite cannot be stored as integers; see check()")
    # The scale is a power of two, so the product is exact in any precision.
    scaled = samples * samples.dtype.type(32768)
    integers: Int16[np.ndarray, " N"] = np.clip(np.rint(scaled, out=scaled), -32768, 32767, out=scaled).astype(np.int16)
    return integers


def flac_bytes(samples: Float[np.ndarray, " N"], rate: int) -> bytes:
    """Encode one channel as 16-bit FLAC, rounded and without dither: equal samples give equal bytes.

    Samples beyond full scale saturate; they never wrap around.

    Args:
        samples: One channel, full scale ±1.
        rate: Sample rate, in Hz.

    Raises:
        ValueError: A sample is not finite.
    """
    buffer = io.BytesIO()
    sf.write(buffer, as_int16(samples), rate, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()


def from_flac_bytes(data: bytes) -> tuple[Float32[np.ndarray, " N"], int]:
    """Decode the bytes that `flac_bytes` made; encoding the result again gives the same bytes.

    Returns:
        Samples with full scale ±1, and their rate in Hz.

    Raises:
        Refusal: The bytes are no FLAC file, or a truncated one.
    """
    try:
        with sf.SoundFile(io.BytesIO(data)) as file:
            frames, rate = file.frames, file.samplerate
            samples = file.read(dtype="float32", always_2d=True)
    except sf.LibsndfileError as error:
        raise Refusal.failed("undecodable", f"{len(data)} bytes are no whole FLAC: {error}") from error
    if len(samples) < frames:
        raise Refusal.failed("truncated", f"{len(data)} bytes of FLAC hold {len(samples)} of {frames} frames")
    return np.ascontiguousarray(samples[:, 0]), rate


def _to_db(power: float) -> float:
    return 10 * math.log10(power) if power > 0 else -math.inf


def _sniff(path: Path) -> tuple[bytes, int]:
    """Refuse a file that is plainly no audio with a clear message, before a decoder does.

    Returns:
        Its first `HEAD_BYTES`, and its size in bytes.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise Refusal.failed("not_found", f"{path} is no file; check the manifest's root folder")
        with path.open("rb", buffering=0) as file:
            head = file.read(HEAD_BYTES)
    except OSError as error:
        if error.errno in SURROUNDINGS:
            raise
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP):
            raise Refusal.failed("not_found", f"{path} is no file; check the manifest's root folder") from error
        raise Refusal.failed("undecodable", f"{path} cannot be opened: {error.strerror}") from error
    except ValueError as error:  # a name that no file can have, with a null byte for example
        raise Refusal.failed("not_found", f"{str(path)!r} is no file name; correct the manifest") from error
    if not head:
        raise Refusal.failed("empty_file", f"{path} has no bytes; fetch it again")
    if head.startswith(b"version https://git-lfs"):
        raise Refusal.failed("git_lfs_pointer", f"{path} only points at audio; run `git lfs pull` where it is from")
    if head.lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith((b"<!doctype html", b"<html")):
        raise Refusal.failed(
            "html_instead_of_audio", f"{path} is a web page, an error message as a rule; fetch it again"
        )
    return head, status.st_size


def _open(path: Path, *, whole: bool) -> SndfileSource | None:
    """Open a file with libsndfile; None if only PyAV may know it.

    Args:
        path: The file.
        whole: Whether all of it is wanted; otherwise chained recordings after the first one are not looked for.
    """
    head, size = _sniff(path)
    if path.suffix.lower() in _AV_SUFFIXES or head[4:8] == b"ftyp":
        return None
    try:
        return SndfileSource(path, layout_of(path, head, size, whole=whole))
    except sf.LibsndfileError as error:
        # libsndfile knows these containers, but not all codecs that they may hold.
        if head[:4] in (b"RIFF", b"RIFX", b"FORM") and _av_can_open(path):
            return None
        raise read_error(path, error, "undecodable") from error


def _refuse_too_large(path: Path, frames: int, channels: int) -> None:
    """Refuse what would not fit into memory, before it is decoded: a header of some bytes can declare terabytes."""
    if frames * channels > MAX_SAMPLES:
        raise Refusal.failed(
            "too_large",
            f"{path}: {frames} frames of {channels} channels are more than can be read at once ({MAX_SAMPLES} "
            "samples); list segments of the file in the corpus' table, or split it",
        )


def _read_with_sndfile(
    path: Path, source: SndfileSource, offset_s: float, duration_s: float | None
) -> tuple[Float32[np.ndarray, "C N"], int, int, int]:
    """Decode a segment with libsndfile; results as those of `_read_with_av`."""
    with source:
        if duration_s is None:
            source.refuse_truncated()
        rate = source.rate
        start = round(offset_s * rate)
        wanted = source.frames - start if duration_s is None else round(duration_s * rate)
        if duration_s is None or start + wanted <= source.frames:
            _refuse_too_large(path, wanted, source.channels)
            return source.read(start, wanted), rate, start, wanted
    # The segment reaches beyond the first of recordings that may be chained: look at all of them.
    complete = _open(path, whole=True)
    assert complete is not None, "libsndfile opened it before"
    with complete:
        count = min(wanted, max(complete.frames - start, 0))
        _refuse_too_large(path, count, complete.channels)
        return complete.read(start, count), rate, start, wanted


@contextmanager
def _av_stream(path: Path) -> Iterator[tuple[Any, Any]]:
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


def _av_can_open(path: Path) -> bool:
    """Whether PyAV is installed and finds audio that it can decode."""
    try:
        with _av_stream(path):
            return True
    except Refusal:
        return False


def _av_frames(container: Any, stream: Any) -> int | None:
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


def _probe_with_av(path: Path) -> AudioInfo:
    status = path.stat()
    return _av_header(path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=16)
def _av_header(path: Path, size: int, changed_ns: int) -> AudioInfo:
    """Read a header once for all segments of a file: the header of ten hours of m4a takes 50 ms."""
    with _av_stream(path) as (container, stream):
        frames = _av_frames(container, stream)
        rate, channels = int(stream.codec_context.sample_rate), int(stream.codec_context.channels)
    if frames is None:
        samples, rate, _, _ = _read_with_av(path, 0.0, None)
        channels, frames = samples.shape
    if not frames:
        raise Refusal.failed("empty_file", f"{path} has a header and no samples; fetch it again")
    return AudioInfo(frames=frames, sample_rate=rate, channels=channels)


def _read_with_av(
    path: Path, offset_s: float, duration_s: float | None
) -> tuple[Float32[np.ndarray, "C N"], int, int, int]:
    """Decode a segment of a file whose format libsndfile does not know.

    Returns:
        Samples, their rate, the index of the first sample, and the number of samples that the segment should have.
    """
    with _av_stream(path) as (container, stream):
        rate = int(stream.codec_context.sample_rate)
        declared = _av_frames(container, stream)
        start = round(offset_s * rate)
        stop = declared if duration_s is None else start + round(duration_s * rate)
        # Encoders fill the last frame up with silence, which is not part of the recording.
        last = min((end for end in (declared, stop) if end is not None), default=None)
        origin = stream.start_time or 0
        if offset_s > _AV_PREROLL_S and container.format.name not in ("wav", "aiff"):  # seeking there is not exact
            container.seek(origin + int((offset_s - _AV_PREROLL_S) / stream.time_base), stream=stream)
        samples = _assemble(_av_decoded(path, container, stream, origin), start, last)
    return samples, rate, start, samples.shape[1] if stop is None else stop - start


def _av_decoded(path: Path, container: Any, stream: Any, origin: int) -> Iterator[tuple[int, np.ndarray]]:
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


def _assemble(pieces: Iterator[tuple[int, np.ndarray]], start: int, stop: int | None) -> Float32[np.ndarray, "C N"]:
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
        if (position - start + gap + piece.shape[1]) * channels > MAX_SAMPLES:
            raise Refusal.failed(
                "too_large",
                f"more than {MAX_SAMPLES} samples, or times far apart; list segments of the file in the corpus' table",
            )
        parts += [np.zeros((channels, gap), np.float32), piece]
        position += gap + piece.shape[1]
    return np.concatenate(parts, axis=1) if parts else np.zeros((channels, 0), np.float32)
