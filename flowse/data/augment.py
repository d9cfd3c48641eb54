"""Augmentation of noisy and clean log-mels in training: both get the same tempo, pitch and frequency response."""

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
    """The augmentation that was drawn for a pair of noisy and clean log-mels.

    Attributes:
        tempo: Frames of the recording for each frame of the result.
        pitch: Factor of all frequencies.
        log_gains: Gain of each mel bin in nepers, added to the log-mel of every frame.

    Example:
        >>> drawn = draw_augmentation(seed, n_mels=100, config=AugmentConfig(probability=0.5))
        >>> pair = drawn(torch.stack((noisy, clean)), frames=200, config=MelConfig())
    """

    tempo: float
    pitch: float
    log_gains: Float[np.ndarray, " F"]

    def source_frames(self, frames: int, available: int) -> int:
        """Return how many frames of the recording, `available` at most, are needed to make `frames` frames."""
        return min(available, math.ceil((frames - 1) * self.tempo) + 1)

    def __call__(self, pair: Float[Tensor, "2 S F"], frames: int, config: MelConfig) -> Float[Tensor, "2 T F"]:
        """Return `frames` frames of augmented noisy and clean log-mel; silence stays silence.

        Frames and bins are interpolated linearly. If the pitch falls, the highest bin is repeated above it.

        Args:
            pair: Noisy and clean log-mel, in nepers.
            frames: Number of frames ``T`` of the result.
            config: The definition of the mels.
        """
        source, bins = pair.shape[1], pair.shape[2]
        if self.tempo != 1 or self.pitch != 1 or source != frames:
            centres = mel_centres_hz(config)
            rows = np.interp(centres / self.pitch, centres, np.arange(bins))
            # A recording that is too short for the tempo gets the highest tempo that its length allows.
            columns = np.arange(frames) * min(self.tempo, (source - 1) / max(1, frames - 1))
            pair = _interpolate(_interpolate(pair, columns, 1), rows, 2)
        augmented = pair + torch.from_numpy(self.log_gains.astype(np.float32))
        return augmented.masked_fill(pair <= config.log_floor, config.log_floor).clamp_min(config.log_floor)


def draw_augmentation(seed: int, n_mels: int, config: AugmentConfig) -> Augmentation:
    """Draw the augmentation of a pair from a seed."""
    rng = generator(derive_seed(seed, "augment"))
    warped, equalised = rng.random(2) < config.probability
    tempo, pitch = rng.uniform(*config.tempo), rng.uniform(*config.pitch)
    curve = np.interp(
        np.linspace(0, 1, n_mels),
        np.linspace(0, 1, _EQUALISER_POINTS),
        rng.uniform(-config.equaliser_db, config.equaliser_db, _EQUALISER_POINTS),
    )
    log_gains = (equalised * curve + rng.uniform(-config.level_db, config.level_db)) / DB_PER_NEPER
    return Augmentation(float(tempo), float(pitch), log_gains) if warped else Augmentation(1.0, 1.0, log_gains)


def mel_centres_hz(config: MelConfig) -> Float[np.ndarray, " F"]:
    """Return the centre frequency of every HTK mel bin, in Hz."""
    low, high = (2595 * math.log10(1 + hz / 700) for hz in (config.f_min, config.f_max))
    mels = np.linspace(low, high, config.n_mels + 2)[1:-1]
    return np.asarray(700 * (10 ** (mels / 2595) - 1))


def _interpolate(x: Tensor, positions: Float[np.ndarray, " P"], axis: int) -> Tensor:
    """Interpolate linearly along an axis at fractional positions."""
    left = np.minimum(positions.astype(np.int64), x.shape[axis] - 1)
    right = torch.from_numpy(np.minimum(left + 1, x.shape[axis] - 1))
    shape = [-1 if index == axis else 1 for index in range(x.ndim)]
    weight = torch.from_numpy((positions - left).astype(np.float32)).reshape(shape)
    return torch.lerp(x.index_select(axis, torch.from_numpy(left)), x.index_select(axis, right), weight)
