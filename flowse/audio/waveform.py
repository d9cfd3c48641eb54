"""Recordings as arrays: files and segments are read, checked, mixed to one channel and resampled."""

from __future__ import annotations

import errno
import math
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import soundfile as sf
import soxr
from jaxtyping import Float, Float32

from flowse.audio import pyav
from flowse.audio.containers import HEAD_BYTES, layout_of
from flowse.audio.level import level_dbfs, power_db
from flowse.audio.offset import offset_of
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

SEGMENT_SLACK_S = 0.05
"""A segment may reach this far past the end of its file, in seconds: corpora round their times."""

HIGH_RESOLUTION = frozenset({"PCM_24", "PCM_32", "FLOAT", "DOUBLE"})
"""Sample formats (`sample_format`) that hold more than 16 bits."""

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
        frames, rate, channels = pyav.probe_header(path, MAX_SAMPLES)
        return AudioInfo(frames=frames, sample_rate=rate, channels=channels)
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
        samples, rate, start, wanted = pyav.read_segment(path, offset_s, duration_s, MAX_SAMPLES)
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
    peak_dbfs = power_db(max(high - offset, offset - low) ** 2)
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


def _sniff(path: Path) -> tuple[bytes, int]:
    """Refuse a file that is plainly no audio with a clear message, before a decoder does.

    Returns:
        Its first `HEAD_BYTES`, and its size in bytes.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise Refusal.failed("not_found", f"{path} is no file; correct its path")
        with path.open("rb", buffering=0) as file:
            head = file.read(HEAD_BYTES)
    except OSError as error:
        if error.errno in SURROUNDINGS:
            raise
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP):
            raise Refusal.failed("not_found", f"{path} is no file; correct its path") from error
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
    if path.suffix.lower() in pyav.SUFFIXES or head[4:8] == b"ftyp":
        return None
    try:
        return SndfileSource(path, layout_of(path, head, size, whole=whole))
    except sf.LibsndfileError as error:
        # libsndfile knows these containers, but not all codecs that they may hold.
        if head[:4] in (b"RIFF", b"RIFX", b"FORM") and pyav.can_open(path):
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
    """Decode a segment with libsndfile; results as those of `pyav.read_segment`."""
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
