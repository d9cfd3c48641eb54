"""Training crops of the speaker encoder: short stretches of speech at three speeds, with random noise and rooms."""

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
"""Speeds of the recordings; each speed of a speaker is a class of its own, which triples the classes."""


@dataclass(frozen=True, kw_only=True)
class CropConfig:
    """The composition of a batch.

    Attributes:
        batch_size: Number of crops, each of another class.
        seconds: Possible lengths of the crops of a batch, in seconds; only a few, because the CPU's kernels are
            prepared anew for each length.
        noise_share: Share of crops with noise.
        snr_db: Range of the signal-to-noise ratio, in dB.
        room_share: Share of crops with synthetic reverberation.
        rt60_s: Range of the reverberation time, in seconds.
        band_share: Share of crops that a random low-pass filters.
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
    """Draws batches as a pure function of the step.

    Attributes:
        config: The composition of a batch.
        seed: Root seed of all draws.
        speakers: Recordings of each speaker, at 16 kHz.
        noises: Noise recordings, at 16 kHz; if there are none, no noise is added.
    """

    config: CropConfig
    seed: int
    speakers: Sequence[Sequence[Float32[np.ndarray, " N"]]]
    noises: Sequence[Float32[np.ndarray, " M"]]

    @classmethod
    def from_folder(cls, root: Path, config: CropConfig, seed: int) -> Crops:
        """Load the speech and noise of split train in `root/manifest.csv` (columns path, kind, split, speaker).

        Raises:
            FileNotFoundError: There is no manifest.
            ValueError: The manifest names fewer than two speakers.
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
        """Number of classes: every speaker at every speed."""
        return len(self.speakers) * len(SPEEDS)

    def batch(self, step: int) -> tuple[Float32[Tensor, "B T 80"], Int[Tensor, " B"]]:
        """Draw the batch of a step; return filterbank features and classes."""
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
            piece = _reverberate(rng, piece, rng.uniform(*c.rt60_s))
        if self.noises and rng.random() < c.noise_share:
            noise = _piece(rng, self.noises, samples)
            gain_db = _level_db(piece) - _level_db(noise) - rng.uniform(*c.snr_db)
            piece = piece + noise * np.float32(10 ** (min(gain_db, 40.0) / 20))
        if rng.random() < c.band_share:
            edge = rng.uniform(3000, 7000) / (RATE / 2)
            piece = scipy.signal.sosfilt(scipy.signal.butter(4, edge, output="sos"), piece)
        return np.ascontiguousarray(piece, np.float32)


def _piece(rng: np.random.Generator, recordings: Sequence[np.ndarray], samples: int) -> np.ndarray:
    """Cut a stretch of a recording, which is looped if it is shorter; the draw is proportional to the lengths."""
    lengths = np.array([len(recording) for recording in recordings], np.float64)
    chosen = recordings[int(rng.choice(len(recordings), p=lengths / lengths.sum()))]
    if len(chosen) < samples:
        chosen = np.tile(chosen, -(-samples // len(chosen)))
    start = int(rng.integers(len(chosen) - samples + 1))
    return chosen[start : start + samples]


def _reverberate(rng: np.random.Generator, piece: np.ndarray, rt60_s: float) -> np.ndarray:
    """Add a tail of decaying noise that is at most as loud as the direct sound."""
    tail = rng.standard_normal(int(rt60_s * RATE)) * 10 ** (-3 * np.arange(int(rt60_s * RATE)) / (rt60_s * RATE))
    tail *= rng.uniform(0.1, 1.0) / max(float(np.linalg.norm(tail)), 1e-9)
    tail[0] = 1.0
    wet: np.ndarray = scipy.signal.oaconvolve(piece, tail)[: len(piece)]
    return wet


def _level_db(samples: np.ndarray) -> float:
    return 10 * float(np.log10(np.mean(np.square(samples, dtype=np.float64)) + 1e-12))
