"""Lossless FLAC bytes of one channel, as shards and pages hold them."""

from __future__ import annotations

import io

import numpy as np
import soundfile as sf
from jaxtyping import Float, Float32, Int16

from flowse.refusal import Refusal

try:
    import miniaudio
except ImportError:  # the library alone decodes with libsndfile
    miniaudio = None

_FACTS = slice(18, 26)  # of a FLAC file: rate (20 bits), channels (3), bits of a sample (5), samples (36)
_MOST_SAMPLES = 2**29


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

    miniaudio decodes them twice as fast as libsndfile, where it is installed. What it does not decode to the length
    that the header names, since it passes over frames whose CRC is wrong, libsndfile judges.

    Returns:
        Samples with full scale ±1, and their rate in Hz.

    Raises:
        Refusal: The bytes are no FLAC file, or a truncated or damaged one.
    """
    found = None if miniaudio is None else _quickly(data)
    return _with_sndfile(data) if found is None else found


def _quickly(data: bytes) -> tuple[Float32[np.ndarray, " N"], int] | None:
    """Decode one channel whose frames are all whole; None: it is not so, or something is odd."""
    facts = int.from_bytes(data[_FACTS], "big")
    rate, channels, length = facts >> 44, (facts >> 41 & 7) + 1, facts & (2**36 - 1)
    if channels != 1 or not 0 < length <= _MOST_SAMPLES:
        return None
    try:
        decoded = miniaudio.flac_read_f32(data)
    except miniaudio.DecodeError:
        return None
    samples = np.frombuffer(decoded.samples, np.float32)
    return (samples, rate) if (len(samples), decoded.sample_rate, decoded.nchannels) == (length, rate, 1) else None


def _with_sndfile(data: bytes) -> tuple[Float32[np.ndarray, " N"], int]:
    try:
        with sf.SoundFile(io.BytesIO(data)) as file:
            frames, rate = file.frames, file.samplerate
            samples = file.read(dtype="float32", always_2d=True)
    except sf.LibsndfileError as error:
        raise Refusal.failed("undecodable", f"{len(data)} bytes are no whole FLAC: {error}") from error
    if len(samples) < frames:
        raise Refusal.failed("truncated", f"{len(data)} bytes of FLAC hold {len(samples)} of {frames} frames")
    return np.ascontiguousarray(samples[:, 0]), rate
