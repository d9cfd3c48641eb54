"""Training crops: short pieces of known speakers, at three speeds, in noise and rooms that are drawn by step."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.signal
import soxr
import torch
from jaxtyping import Float32, Int
from torch import Tensor

from flowse.audio.waveform import read_mono
from flowse.metrics.speaker import RATE, filterbank
from flowse.seeding import derive_seed, generator

SPEEDS = (1.0, 0.9, 1.1)
"""Each makes other speakers of the same recordings: three times the classes."""


@dataclass(frozen=True, kw_only=True)
class CropConfig:
    """What a batch is made of.

    Attributes:
        batch_size: Crops, each of another speaker.
        seconds: Lengths that a batch's crops may have; a few only, as kernels are prepared anew for each.
        noise_share: Fraction of crops with noise.
        snr_db: Its range.
        room_share: Fraction of crops with made-up reverberation.
        rt60_s: Its range.
        band_share: Fraction of crops without the band above a random edge.
    """

    batch_size: int = 48
    seconds: tuple[float, ...] = (1.5, 2.0, 3.0)
    noise_share: float = 0.6
    snr_db: tuple[float, float] = (0.0, 20.0)
    room_share: float = 0.3
    rt60_s: tuple[float, float] = (0.1, 0.6)
    band_share: float = 0.1


@dataclass(frozen=True)
class Crops:
    """Batches as a pure function of the step.

    Attributes:
        config: What a batch is made of.
        seed: Root of every draw.
        speakers: Each speaker's recordings, at 16 kHz.
        noises: Noise recordings, at 16 kHz; none: no noise is added.
    """

    config: CropConfig
    seed: int
    speakers: Sequence[Sequence[Float32[np.ndarray, " N"]]]
    noises: Sequence[Float32[np.ndarray, " M"]]

    @classmethod
    def from_folder(cls, root: Path, config: CropConfig, seed: int) -> Crops:
        """Load what `root/manifest.csv` (path, kind, split, speaker) names in split train: its speech and its noise.

        Raises:
            FileNotFoundError: There is no such table.
            ValueError: It names fewer than two speakers.
        """
        speech: dict[str, list[np.ndarray]] = defaultdict(list)
        noises = []
        with (root / "manifest.csv").open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                if row["split"] == "train" and row["kind"] == "speech" and row["speaker"]:
                    speech[row["speaker"]].append(read_mono(root / row["path"], RATE))
                elif row["split"] == "train" and row["kind"] == "noise":
                    noises.append(read_mono(root / row["path"], RATE))
        if len(speech) < 2:
            raise ValueError(f"{root / 'manifest.csv'} names {len(speech)} speaker(s) of split train; two are needed")
        return cls(config, seed, [speech[name] for name in sorted(speech)], noises)

    @property
    def classes(self) -> int:
        """Speakers, each at every speed."""
        return len(self.speakers) * len(SPEEDS)

    def batch(self, step: int) -> tuple[Float32[Tensor, "B T 80"], Int[Tensor, " B"]]:
        """Draw the batch of a step: filterbank features and speakers."""
        rng = generator(derive_seed(self.seed, "pretrain/speaker/batch", step))
        samples = round(float(rng.choice(self.config.seconds)) * RATE)
        count = min(self.config.batch_size, self.classes)
        labels = rng.choice(self.classes, size=count, replace=False)
        features = [torch.from_numpy(filterbank(self._crop(rng, int(label), samples))) for label in labels]
        return torch.stack(features), torch.from_numpy(labels.astype(np.int64))

    def _crop(self, rng: np.random.Generator, label: int, samples: int) -> Float32[np.ndarray, " N"]:
        c = self.config
        speaker, speed = label // len(SPEEDS), SPEEDS[label % len(SPEEDS)]
        piece = _piece(rng, self.speakers[speaker], round(samples * speed) + 32)
        if speed != 1.0:
            piece = soxr.resample(piece, speed * RATE, RATE)
        piece = piece[:samples]
        if rng.random() < c.room_share:
            piece = _in_a_room(rng, piece, rng.uniform(*c.rt60_s))
        if self.noises and rng.random() < c.noise_share:
            noise = _piece(rng, self.noises, samples)
            gain_db = _level_db(piece) - _level_db(noise) - rng.uniform(*c.snr_db)
            piece = piece + noise * np.float32(10 ** (min(gain_db, 40.0) / 20))
        if rng.random() < c.band_share:
            edge = rng.uniform(3000, 7000) / (RATE / 2)
            piece = scipy.signal.sosfilt(scipy.signal.butter(4, edge, output="sos"), piece)
        return np.ascontiguousarray(piece, np.float32)


def _piece(rng: np.random.Generator, recordings: Sequence[np.ndarray], samples: int) -> np.ndarray:
    """Cut a stretch of one recording, looped if that is shorter; long ones come as often as they are long."""
    lengths = np.array([len(one) for one in recordings], np.float64)
    chosen = recordings[int(rng.choice(len(recordings), p=lengths / lengths.sum()))]
    if len(chosen) < samples:
        chosen = np.tile(chosen, -(-samples // len(chosen)))
    start = int(rng.integers(len(chosen) - samples + 1))
    return chosen[start : start + samples]


def _in_a_room(rng: np.random.Generator, piece: np.ndarray, rt60_s: float) -> np.ndarray:
    """Add a tail of decaying noise, as loud as the direct sound at most."""
    tail = rng.standard_normal(int(rt60_s * RATE)) * 10 ** (-3 * np.arange(int(rt60_s * RATE)) / (rt60_s * RATE))
    tail *= rng.uniform(0.1, 1.0) / max(float(np.linalg.norm(tail)), 1e-9)
    tail[0] = 1.0
    wet: np.ndarray = scipy.signal.oaconvolve(piece, tail)[: len(piece)]
    return wet


def _level_db(samples: np.ndarray) -> float:
    return 10 * float(np.log10(np.mean(np.square(samples, dtype=np.float64)) + 1e-12))
