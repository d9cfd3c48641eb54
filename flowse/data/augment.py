"""Augmentation of log-mel pairs while training: other voices, tempi and microphones, the same for noisy and clean."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from flowse.audio.mel_config import DB_PER_NEPER, MelConfig
from flowse.data.augment_config import AugmentConfig
from flowse.seeding import derive_seed, generator

_EQUALISER_POINTS = 6


@dataclass(frozen=True)
class Augmentation:
    """What becomes of one pair.

    Attributes:
        tempo: Frames of the recording for each frame of the result.
        pitch: Factor of all frequencies.
        gains: Added to every frame's log-mel, a number a bin, in nepers.
    """

    tempo: float
    pitch: float
    gains: Float[np.ndarray, " F"]

    def source_frames(self, frames: int, available: int) -> int:
        """Return the frames of the recording that `frames` of the result are made of, no more than there are."""
        return min(available, math.ceil((frames - 1) * self.tempo) + 1)

    def __call__(self, pair: Float[Tensor, "2 S F"], frames: int, config: MelConfig) -> Float[Tensor, "2 T F"]:
        """Make `frames` frames of noisy and clean log-mel; silence stays silence.

        What lies between the mel's frames and bins is interpolated. A band that the change of pitch uncovers at the
        top is like the highest bin.
        """
        source, bins = pair.shape[1], pair.shape[2]
        if self.tempo != 1 or self.pitch != 1 or source != frames:
            centres = mel_centres_hz(config)
            rows = np.interp(centres / self.pitch, centres, np.arange(bins))
            # A recording too short for the tempo is said as fast as it allows.
            columns = np.arange(frames) * min(self.tempo, (source - 1) / max(1, frames - 1))
            pair = _between(_between(pair, columns, 1), rows, 2)
        changed = pair + torch.from_numpy(self.gains.astype(np.float32))
        return changed.masked_fill(pair <= config.log_floor, config.log_floor).clamp_min(config.log_floor)


def draw_augmentation(seed: int, n_mels: int, config: AugmentConfig) -> Augmentation:
    """Draw from a seed what becomes of a pair."""
    rng = generator(derive_seed(seed, "augment"))
    moved, shaped = rng.random(2) < config.probability
    tempo, pitch = rng.uniform(*config.tempo), rng.uniform(*config.pitch)
    curve = np.interp(
        np.linspace(0, 1, n_mels),
        np.linspace(0, 1, _EQUALISER_POINTS),
        rng.uniform(-config.equaliser_db, config.equaliser_db, _EQUALISER_POINTS),
    )
    gains = (shaped * curve + rng.uniform(-config.level_db, config.level_db)) / DB_PER_NEPER
    return Augmentation(float(tempo), float(pitch), gains) if moved else Augmentation(1.0, 1.0, gains)


def mel_centres_hz(config: MelConfig) -> Float[np.ndarray, " F"]:
    """Return the middle of every HTK mel bin, in Hz."""
    low, high = (2595 * math.log10(1 + hz / 700) for hz in (config.f_min, config.f_max))
    mels = np.linspace(low, high, config.n_mels + 2)[1:-1]
    return np.asarray(700 * (10 ** (mels / 2595) - 1))


def _between(x: Tensor, places: Float[np.ndarray, " P"], axis: int) -> Tensor:
    """Interpolate linearly along an axis at fractional places."""
    left = np.minimum(places.astype(np.int64), x.shape[axis] - 1)
    right = torch.from_numpy(np.minimum(left + 1, x.shape[axis] - 1))
    shape = [-1 if index == axis else 1 for index in range(x.ndim)]
    weight = torch.from_numpy((places - left).astype(np.float32)).reshape(shape)
    return torch.lerp(x.index_select(axis, torch.from_numpy(left)), x.index_select(axis, right), weight)
