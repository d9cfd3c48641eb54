"""The forms in which a recording is handed over (array, tensor, list, file), as channels of float32 and back again."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, SupportsInt

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor

from flowse.audio.waveform import read, resample

NoTensor = np.ndarray | Sequence[Any] | Mapping[str, Any] | str | os.PathLike[str]
Recording = NoTensor | Tensor
"""Samples as an array, a tensor or (nested) lists; a row's audio as Hugging Face `datasets` has it; or a file."""

Restore = Callable[[Float32[np.ndarray, "C N"]], np.ndarray | Tensor]
"""A function that gives channels the form (class, shape, data type) of the recording that was handed over."""

MAX_CHANNELS = 64
"""More channels than recorders have: a waveform that has them is a spectrogram, or a batch."""

LEAST_RATE = 1000
"""Lowest sample rate in Hz: no recorder writes less, and a rate that was given wrongly would make hours of minutes."""

_FULL_SCALE = {"int16": (2.0**15, 0.0), "int32": (2.0**31, 0.0), "uint8": (2.0**7, 2.0**7)}
"""Of each kind of integer samples: how much is full scale, and which value is silence."""
_SHAPES = "a waveform is (N,), (C, N) or (N, C)"


def as_channels(audio: Recording, sample_rate: SupportsInt | None) -> tuple[Float32[np.ndarray, "C N"], int, Restore]:
    """Take a recording in any form apart.

    The shorter of two sides are the channels. Floating-point samples have full scale ±1 and are not scaled; integer
    samples (int16, int32, uint8) have the full scale of their type.

    Args:
        audio: See `Recording`. A file gives `(N,)` if it has one channel, else `(C, N)`.
        sample_rate: In Hz. A file and a row of `datasets` know their own: None keeps it, another one converts a file.

    Returns:
        The channels with full scale ±1, their sample rate in Hz, and the function that gives channels of that many
        samples the recording's own form. Lists and files come back as float32 arrays; integers are rounded and
        saturate.

    Raises:
        ValueError: The shape or the data type is no waveform's, or the sample rate is missing, contradicts the row's
            or is no recording's.
        Refusal: The file is missing, damaged or no audio.
    """
    if isinstance(audio, str | os.PathLike):
        samples, own = read(Path(audio).expanduser())
        rate = own if sample_rate is None else _rate(sample_rate)
        if rate != own:
            samples = np.stack([resample(channel, own, rate) for channel in samples])
        audio, sample_rate = samples[0] if len(samples) == 1 else samples, rate
    elif isinstance(audio, Mapping):
        audio, sample_rate = _of_row(audio, sample_rate)
    if sample_rate is None:
        raise ValueError("samples do not know their rate; say it: enhancer(audio, 16_000)")
    rate = _rate(sample_rate)
    array = _as_array(audio)
    channels, last = _split(array)

    def restore(made: Float32[np.ndarray, "C N"]) -> np.ndarray | Tensor:
        shaped = _as_type((made.T if last else made).reshape(array.shape), array.dtype)
        if not isinstance(audio, Tensor):
            return shaped
        return torch.from_numpy(shaped).to(audio.device, audio.dtype)

    return channels, rate, restore


def _rate(sample_rate: SupportsInt) -> int:
    try:
        rate = int(sample_rate)
    except (ValueError, OverflowError):  # not a number, or infinite
        rate = 0
    if rate != sample_rate or isinstance(sample_rate, bool):
        raise ValueError(f"sample_rate={sample_rate} must be a whole number, in Hz")
    return checked_rate(rate)


def checked_rate(rate: int) -> int:
    """Return a sample rate in Hz that a recording can have.

    Raises:
        ValueError: It is below `LEAST_RATE`.
    """
    if rate < LEAST_RATE:
        raise ValueError(f"sample_rate={rate} must be at least {LEAST_RATE}, in Hz")
    return rate


def _of_row(row: Mapping[str, Any], sample_rate: SupportsInt | None) -> tuple[Any, SupportsInt]:
    """Take the samples and the rate out of a row of a data set."""
    if not {"array", "sampling_rate"} <= set(row):
        raise ValueError(f"a row of audio has the keys array and sampling_rate, got {sorted(map(str, row))}")
    own = row["sampling_rate"]
    if sample_rate is not None and int(sample_rate) != int(own):
        raise ValueError(f"the row says sampling_rate={own}, the call sample_rate={sample_rate}; leave the second out")
    return row["array"], own


def _as_array(audio: Any) -> np.ndarray:
    """Make an array of what holds samples; a list becomes float32."""
    if isinstance(audio, Tensor):
        tensor = audio.detach().cpu()
        return (tensor.float() if tensor.is_floating_point() else tensor).numpy()
    if isinstance(audio, np.ndarray):
        return audio
    try:
        array = np.asarray(audio)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{_SHAPES}; these {type(audio).__name__}s are not equally long: {error}") from error
    return array.astype(np.float32) if array.dtype == np.float64 else array


def _split(array: np.ndarray) -> tuple[Float32[np.ndarray, "C N"], bool]:
    """Return the channels with full scale ±1, and whether they were the last dimension."""
    if array.ndim not in (1, 2):
        what = f"{array.dtype} of shape {array.shape}" if array.ndim else f"a single {array.dtype}"
        raise ValueError(f"{_SHAPES}, got {what}; enhance the recordings of a batch one by one")
    if not np.issubdtype(array.dtype, np.floating) and array.dtype.name not in _FULL_SCALE:
        raise ValueError(
            f"samples are floating point within ±1 or {', '.join(_FULL_SCALE)}, got {array.dtype}, whose full scale "
            "nobody knows; divide by it first"
        )
    rows = np.atleast_2d(array)
    if rows.size and rows.shape[0] == rows.shape[1] > 1:
        raise ValueError(f"{_SHAPES}; of shape {rows.shape} nobody knows which side is the channels: enhance each")
    last = bool(rows.size) and rows.shape[1] < rows.shape[0]
    rows = rows.T if last else rows
    if rows.size and len(rows) > MAX_CHANNELS:
        raise ValueError(
            f"{_SHAPES}; shape {array.shape} has {len(rows)} channels and is a spectrogram or a batch: hand over "
            "waveforms, one by one"
        )
    if np.issubdtype(array.dtype, np.floating):
        return np.ascontiguousarray(rows, np.float32), last
    scale, silence = _FULL_SCALE[array.dtype.name]
    return ((rows.astype(np.float64) - silence) / scale).astype(np.float32), last


def _as_type(samples: Float32[np.ndarray, ...], dtype: np.dtype[Any]) -> np.ndarray:
    """Give samples a data type; integers are rounded and saturate."""
    if np.issubdtype(dtype, np.floating):
        return samples.astype(dtype)
    scale, silence = _FULL_SCALE[dtype.name]
    limits = np.iinfo(dtype)
    return np.clip(np.rint(samples.astype(np.float64) * scale + silence), limits.min, limits.max).astype(dtype)
