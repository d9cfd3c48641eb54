"""Training crops of the vocoder: short stretches of speech, noise and mixtures, drawn from recordings in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import soxr
from jaxtyping import Float32

from flowse.audio.recordings import find_recordings
from flowse.audio.waveform import read_mono
from flowse.seeding import derive_seed, generator

SILENCE_DBFS = -50.0
"""A quieter crop is almost silent and is drawn again, up to eight times."""


@dataclass(frozen=True, kw_only=True)
class CropConfig:
    """The composition of a batch.

    Attributes:
        sample_rate: In Hz.
        samples: Length of a crop, in samples.
        batch_size: Number of crops in a batch.
        noise_share: Share of crops that are noise alone.
        mixture_share: Share of crops that are speech with noise, so that the vocoder also learns imperfect mels.
        snr_db: Range of the signal-to-noise ratio of mixtures, in dB.
        level_dbfs: Range of the RMS level of crops, in dBFS.
        speed_share: Share of crops with another speed, which gives other pitches and a wider band.
        speed: Range of the speed relative to the recording.
        rounded_share: Share of crops that are rounded to 16 bits, as shards are.
    """

    sample_rate: int = 24_000
    samples: int = 56 * 256
    batch_size: int = 12
    noise_share: float = 0.05
    mixture_share: float = 0.12
    snr_db: tuple[float, float] = (-5.0, 20.0)
    level_dbfs: tuple[float, float] = (-36.0, -14.0)
    speed_share: float = 0.4
    speed: tuple[float, float] = (0.85, 1.35)
    rounded_share: float = 0.4


@dataclass(frozen=True)
class Group:
    """Concatenated recordings, from which crops are drawn uniformly.

    Attributes:
        name: Folder of the recordings, e.g. ``speech/en``.
        samples: Samples of all recordings. They have 32 bits, because rounding would fill the empty upper band of
            upsampled recordings with noise that their mels do not have.
        starts: First sample of each recording, and the end of the last recording.
    """

    name: str
    samples: Float32[np.ndarray, " N"]
    starts: np.ndarray

    def draw(self, rng: np.random.Generator, length: int) -> Float32[np.ndarray, " M"]:
        """Draw ``length`` samples from one recording; a shorter recording is padded with zeros."""
        at = int(rng.integers(len(self.samples)))
        index = int(np.searchsorted(self.starts, at, side="right")) - 1
        first, end = int(self.starts[index]), int(self.starts[index + 1])
        begin = int(rng.integers(first, max(first, end - length) + 1))
        piece = self.samples[begin : min(begin + length, end)]
        return np.pad(piece, (0, length - len(piece)))


def load_group(name: str, paths: Sequence[Path], sample_rate: int) -> Group:
    """Read files into a group; each keeps its level."""
    pieces = [read_mono(path, sample_rate) for path in paths]
    starts = np.cumsum([0, *map(len, pieces)])
    return Group(name, np.concatenate(pieces), starts)


def _level_dbfs(samples: Float32[np.ndarray, " N"]) -> float:
    return 10 * float(np.log10(np.mean(np.square(samples)) + 1e-12))


@dataclass(frozen=True)
class Crops:
    """Draws batches as a pure function of the step, so that a killed run resumes exactly where it stopped.

    Attributes:
        config: The composition of a batch.
        seed: Root seed of all draws.
        speech: Groups of speech.
        noise: Groups of noise; if there are none, neither noise nor mixtures are drawn.
        weights: Relative frequency of speech groups by name; 1 if not given.
    """

    config: CropConfig
    seed: int
    speech: Sequence[Group]
    noise: Sequence[Group]
    weights: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def from_folder(cls, root: Path, config: CropConfig, seed: int, weights: Mapping[str, float]) -> Crops:
        """Load ``root/speech/<group>/**`` and ``root/noise/**``.

        Raises:
            FileNotFoundError: There is no speech.
        """
        speech = [
            load_group(folder.name, paths, config.sample_rate)
            for folder in sorted((root / "speech").glob("*"))
            if (paths := sorted(find_recordings(folder)))
        ]
        if not speech:
            raise FileNotFoundError(f"no audio under {root / 'speech'}/<group>/")
        paths = sorted(find_recordings(root / "noise"))
        noise = [load_group("noise", paths, config.sample_rate)] if paths else []
        return cls(config, seed, speech, noise, weights)

    def batch(self, step: int) -> Float32[np.ndarray, "B N"]:
        """Draw the batch of ``step``."""
        rng = generator(derive_seed(self.seed, "pretrain/vocos/batch", step))
        return np.stack([self._crop(rng) for _ in range(self.config.batch_size)])

    def _crop(self, rng: np.random.Generator) -> Float32[np.ndarray, " N"]:
        c = self.config
        kind = rng.random() if self.noise else np.inf
        if kind < c.noise_share:
            crop = self._piece(rng, self.noise[int(rng.integers(len(self.noise)))])
        else:
            share = np.array([self.weights.get(group.name, 1.0) for group in self.speech])
            crop = self._piece(rng, self.speech[int(rng.choice(len(share), p=share / share.sum()))])
            if kind < c.noise_share + c.mixture_share:
                noise = self._piece(rng, self.noise[int(rng.integers(len(self.noise)))])
                snr_db = rng.uniform(*c.snr_db)
                gain_db = _level_dbfs(crop) - _level_dbfs(noise) - snr_db
                crop = crop + noise * np.float32(10 ** (min(gain_db, 40.0) / 20))
        gain_db = min(rng.uniform(*c.level_dbfs) - _level_dbfs(crop), 40.0)
        crop = crop * np.float32(10 ** (gain_db / 20))
        crop = crop / max(1.0, float(np.abs(crop).max()) / 0.99)
        if rng.random() < c.rounded_share:
            crop = np.rint(crop * 32768) / np.float32(32768)
        return crop

    def _piece(self, rng: np.random.Generator, group: Group) -> Float32[np.ndarray, " N"]:
        """Draw a crop from a group, sometimes at another speed; a silent crop is drawn again, up to eight times."""
        n = self.config.samples
        speed = rng.uniform(*self.config.speed) if rng.random() < self.config.speed_share else 1.0
        piece = np.zeros(n, np.float32)
        for _ in range(8):
            piece = group.draw(rng, round(n * speed) + 16 * (speed != 1.0))
            if _level_dbfs(piece) > SILENCE_DBFS:
                break
        if speed != 1.0:
            piece = soxr.resample(piece, speed * self.config.sample_rate, self.config.sample_rate)[:n]
        return piece
