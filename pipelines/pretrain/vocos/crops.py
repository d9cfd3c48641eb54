"""Training crops: short pieces of speech, noise and mixtures, drawn from recordings held in memory."""

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
"""Crops quieter than this teach nothing but silence; all but a few are drawn again."""


@dataclass(frozen=True, kw_only=True)
class CropConfig:
    """What one batch is made of.

    Attributes:
        sample_rate: In Hz.
        samples: Length of a crop.
        batch_size: Crops in a batch.
        noise_share: Fraction of crops that are noise alone.
        mixture_share: Fraction of crops that are speech with noise: the vocoder then also knows imperfect mels.
        snr_db: Range of the mixtures' signal-to-noise ratio.
        level_dbfs: Range of the crops' RMS level.
        speed_share: Fraction of crops that are played faster or slower: other pitches, a wider band.
        speed: Range of that speed.
        rounded_share: Fraction of crops rounded to 16 bits, as shards are.
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
    """Recordings end to end, from which crops are drawn uniformly.

    Attributes:
        name: Folder that they came from, e.g. ``speech/en``.
        samples: All recordings, one after the other. In 32 bits: rounding would fill the band above a
            recording's own with noise that its real mel does not have.
        starts: First sample of each recording, and the end of the last.
    """

    name: str
    samples: Float32[np.ndarray, " N"]
    starts: np.ndarray

    def draw(self, rng: np.random.Generator, length: int) -> Float32[np.ndarray, " M"]:
        """Draw ``length`` samples from one recording; from its start and zero-padded if it is shorter."""
        at = int(rng.integers(len(self.samples)))
        index = int(np.searchsorted(self.starts, at, side="right")) - 1
        first, end = int(self.starts[index]), int(self.starts[index + 1])
        begin = int(rng.integers(first, max(first, end - length) + 1))
        piece = self.samples[begin : min(begin + length, end)]
        return np.pad(piece, (0, length - len(piece)))


def load_group(name: str, paths: Sequence[Path], sample_rate: int) -> Group:
    """Read every file into one group, each at its own level."""
    pieces = [read_mono(path, sample_rate) for path in paths]
    starts = np.cumsum([0, *map(len, pieces)])
    return Group(name, np.concatenate(pieces), starts)


def _level_dbfs(samples: Float32[np.ndarray, " N"]) -> float:
    return 10 * float(np.log10(np.mean(np.square(samples)) + 1e-12))


@dataclass(frozen=True)
class Crops:
    """Batches as a pure function of the step, so that a killed run goes on exactly where it stopped.

    Attributes:
        config: What a batch is made of.
        seed: Root of every draw.
        speech: Groups of speech.
        noise: Groups of noise; with none, neither noise nor mixtures are drawn.
        weights: Share of each speech group by name, 1 if not given.
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
            FileNotFoundError: If there is no speech.
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
        """Draw from a group until it is not silent (a few times at most), perhaps at another speed."""
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
