"""Sound activity by short-time energy: it keeps silence and steady hum away from Whisper."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float32

from flowse.audio.offset import without_offset

_OFFSET_SHARE = 1e-5
"""An offset is removed if it is less than 50 dB weaker than the recording: pauses may be that quiet."""

FRAME_S = 0.02
"""Length of the frames that are judged, in seconds; frames do not overlap."""


@dataclass(frozen=True, kw_only=True)
class Activity:
    """The stretch of a recording that holds sound, and how much sound it holds.

    Attributes:
        start: First sample of the active stretch.
        stop: One past its last sample; equal to `start` if nothing is active.
        active_s: Total length of the active frames in the stretch, in seconds.
        dynamics_db: The level that 5 % of the frames exceed minus the level that 90 % exceed, in dB: about 1 for
            stationary noise, 0 for a tone, 20 and more for clean speech.
    """

    start: int
    stop: int
    active_s: float
    dynamics_db: float


def frame_levels(
    waveform: Float32[np.ndarray, " N"], sample_rate: int, frame_s: float = FRAME_S
) -> Float[np.ndarray, " frames"]:
    """Return the level of consecutive frames in dBFS (a full-scale square wave has 0 dBFS); at least −200.

    Zeros fill the last frame up, so that every sample is in exactly one frame. Samples that are not finite count as
    zero. A constant offset counts as no level.
    """
    size = max(1, round(frame_s * sample_rate))
    padded = np.zeros(-(-len(waveform) // size) * size, dtype=np.float64)
    finite = np.nan_to_num(waveform, nan=0.0, posinf=0.0, neginf=0.0)
    padded[: len(waveform)] = without_offset(finite, _OFFSET_SHARE)
    power = np.square(padded.reshape(-1, size)).mean(axis=1)
    levels: Float[np.ndarray, " frames"] = 10 * np.log10(np.maximum(power, 1e-20))
    return levels


def active_frames(
    levels: Float[np.ndarray, " frames"], *, floor_dbfs: float = -60.0, range_db: float = 35.0
) -> Bool[np.ndarray, " frames"]:
    """Mark the frames that are louder than `floor_dbfs` and within `range_db` of the 95th percentile of all levels."""
    if len(levels) == 0:
        return np.zeros(0, dtype=bool)
    return levels > max(floor_dbfs, float(np.percentile(levels, 95)) - range_db)


def find_activity(
    waveform: Float32[np.ndarray, " N"],
    sample_rate: int,
    *,
    floor_dbfs: float = -60.0,
    range_db: float = 35.0,
    margin_s: float = 0.1,
) -> Activity:
    """Find the stretch from the first to the last active frame.

    Args:
        waveform: Mono samples; the waveform may be empty, and samples may be NaN or infinite.
        sample_rate: In Hz.
        floor_dbfs: Frames below this level are silence, whatever the other frames are like.
        range_db: Frames this far below the loud frames are silence; about the dynamic range of running speech.
        margin_s: Seconds kept before and after the active frames, for soft onsets and endings.
    """
    levels = frame_levels(waveform, sample_rate)
    active = np.flatnonzero(active_frames(levels, floor_dbfs=floor_dbfs, range_db=range_db))
    if len(active) == 0:
        return Activity(start=0, stop=0, active_s=0.0, dynamics_db=0.0)
    size, margin = max(1, round(FRAME_S * sample_rate)), round(margin_s * sample_rate)
    loud, quiet = np.percentile(levels, (95, 10))
    return Activity(
        start=max(0, int(active[0]) * size - margin),
        stop=min(len(waveform), (int(active[-1]) + 1) * size + margin),
        active_s=len(active) * size / sample_rate,
        dynamics_db=float(loud - quiet),
    )
