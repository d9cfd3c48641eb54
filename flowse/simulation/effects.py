"""Effects of microphones, codecs and networks on a mixture; every effect keeps the length and adds no delay."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
import soundfile as sf
from jaxtyping import Float32
from scipy.signal import firwin, firwin2

from flowse.simulation.convolution import convolve
from flowse.simulation.recipe import EQ_BANDS_HZ, PACKET_S, Codec, Recipe

_TAPS = 511
_TAP_STEP = 2.0**-24
"""Filters are rounded to multiples of this (−144 dB): sines and powers have another last bit on other processors."""
_RAMP_S = 0.0025
_BIT_RATES = {"mp3": (8.0, 160.0), "opus": (6.0, 256.0)}
"""Lowest and highest bit rate of each codec in kbit/s: libsndfile's compression levels 1 and 0, mono at 24 kHz."""


def apply_effects(samples: Float32[np.ndarray, " N"], recipe: Recipe, rate: int) -> Float32[np.ndarray, " N"]:
    """Apply a recipe's effects in the order in which a recording passes them: microphone first, network last."""
    if recipe.equaliser_db:
        samples = equalise(samples, recipe.equaliser_db, rate)
    if recipe.clipping_share is not None:
        samples = clip(samples, recipe.clipping_share)
    if recipe.band_limit_hz is not None and recipe.band_limit_hz < rate / 2:
        samples = limit_band(samples, recipe.band_limit_hz, rate)
    if recipe.codec:
        samples = apply_codec(samples, recipe.codec, recipe.codec_kbps, rate)
    if recipe.lost_packets:
        samples = lose_packets(samples, recipe.lost_packets, rate)
    return samples


def equalise(samples: Float32[np.ndarray, " N"], gains_db: Sequence[float], rate: int) -> Float32[np.ndarray, " N"]:
    """Apply gains in dB at `EQ_BANDS_HZ` by a filter without delay; beyond the outermost bands the gain is constant."""
    grid = np.linspace(0, rate / 2, 257)
    curve = np.interp(np.log(np.maximum(grid, 1.0)), np.log(EQ_BANDS_HZ), gains_db)
    return _filter_without_delay(samples, firwin2(_TAPS, grid, 10 ** (curve / 20), fs=rate))


def limit_band(samples: Float32[np.ndarray, " N"], edge_hz: float, rate: int) -> Float32[np.ndarray, " N"]:
    """Remove what lies above `edge_hz`, without delay, as a recording at a sample rate of twice `edge_hz` would."""
    return _filter_without_delay(samples, firwin(_TAPS, edge_hz, fs=rate))


def _filter_without_delay(samples: Float32[np.ndarray, " N"], taps: np.ndarray) -> Float32[np.ndarray, " N"]:
    middle = len(taps) // 2
    rounded = (np.rint(taps / _TAP_STEP) * _TAP_STEP).astype(np.float32)
    return np.asarray(convolve(samples, rounded)[middle : middle + len(samples)], np.float32)


def clip(samples: Float32[np.ndarray, " N"], share: float) -> Float32[np.ndarray, " N"]:
    """Clip at the magnitude that `share` of the samples exceed."""
    magnitudes = np.abs(samples)
    rank = min(int((1 - share) * len(magnitudes)), len(magnitudes) - 1)
    limit = np.partition(magnitudes, rank)[rank]
    return np.asarray(np.clip(samples, -limit, limit), np.float32)


def apply_codec(samples: Float32[np.ndarray, " N"], codec: Codec, kbps: float, rate: int) -> Float32[np.ndarray, " N"]:
    """Encode and decode with a lossy codec; libsndfile removes the codec's delay.

    Args:
        samples: One channel, full scale ±1.
        codec: "mp3" or "opus".
        kbps: Bit rate in kbit/s.
        rate: Sample rate in Hz, one that the codec supports.

    Raises:
        ValueError: There is no such codec.
    """
    if codec not in _BIT_RATES:
        raise ValueError(f"codec {codec!r} is not one of {', '.join(_BIT_RATES)}")
    least, most = _BIT_RATES[codec]
    # libsndfile's mp3 encoder refuses the lowest rate itself, level 1.
    level = min(max((most - kbps) / (most - least), 0.0), 0.999)
    file_format, subtype = ("MP3", "MPEG_LAYER_III") if codec == "mp3" else ("OGG", "OPUS")
    # At a low constant bit rate there is no room for the header from which decoders learn the delay.
    mode = {"bitrate_mode": "AVERAGE"} if codec == "mp3" else {}
    buffer = io.BytesIO()
    options = {"format": file_format, "subtype": subtype, "compression_level": level, **mode}
    with sf.SoundFile(buffer, "w", rate, 1, **options) as file:
        file.write(samples)
    buffer.seek(0)
    decoded, _ = sf.read(buffer, dtype="float32")
    return np.pad(decoded, (0, max(0, len(samples) - len(decoded))))[: len(samples)]


def lose_packets(samples: Float32[np.ndarray, " N"], packets: Sequence[int], rate: int) -> Float32[np.ndarray, " N"]:
    """Silence the packets of `PACKET_S` with these numbers, counted from 0, with ramps of 2.5 ms."""
    size = round(PACKET_S * rate)
    kept = np.ones(len(samples) // size + 1, np.int64)
    kept[[number for number in packets if number < len(kept)]] = 0
    ramp = round(_RAMP_S * rate)
    width = 2 * ramp + 1
    # A moving mean, of whole numbers: np.convolve calls BLAS, whose sums depend on the processor.
    counts = np.cumsum(np.pad(np.repeat(kept, size)[: len(samples)], (ramp + 1, ramp), mode="edge"))
    smooth = (counts[width:] - counts[:-width]) / width
    return samples * smooth.astype(np.float32)
