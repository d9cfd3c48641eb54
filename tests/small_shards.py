"""A small dataset in real shards, for the tests of training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from flowse.data.shards import Mixture, ShardWriter, merge_indexes, write_index
from flowse.data.token_ids import with_tokens
from flowse.model.spec import DiTConfig
from flowse.training.config import OptimConfig, TrainConfig
from tests.dataset_summaries import dataset_summary

Noise = Callable[[np.random.Generator, np.ndarray], np.ndarray]

TINY_TRAINING = {
    "model": DiTConfig(dim=32, depth=2, heads=2, conv_groups=4, text_dim=16, text_blocks=1),
    "optim": OptimConfig(lr=2e-3, warmup_steps=2, ema_decay=0.9),
    "max_steps": 12,
    "frames_per_step": 400,
    "max_frames": 120,
    "validate_every": 4,
    "checkpoint_every": 4,
    "log_every": 2,
    "validation_utterances": 4,
    "examples": 0,
    "tensorboard": False,
}
"""Settings of a training of 12 steps that takes a second; it draws nothing."""

TINY = TrainConfig(**TINY_TRAINING)  # type: ignore[arg-type]


def hiss(rng: np.random.Generator, clean: np.ndarray) -> np.ndarray:
    """White noise."""
    return 0.1 * rng.normal(size=clean.size)


def whistle(rng: np.random.Generator, clean: np.ndarray) -> np.ndarray:
    """A loud tone above all speech: another domain of noise."""
    return 0.5 * np.sin(2 * np.pi * rng.uniform(5000, 9000) * np.arange(clean.size) / 24_000)


def make_shards(folder: Path, noise: Noise = hiss) -> Path:
    """Write 20 mixtures of split train, 5 of dev and 2 of test, one shard a split, with index and `dataset.json`."""
    rng = np.random.default_rng(0)
    indexes = []
    for split, count in (("train", 20), ("dev", 5), ("test", 2)):
        name = f"{split}-00000"
        with ShardWriter(folder / f"{name}.tar", f"{name}.tar") as writer:
            for number in range(count):
                time_s = np.arange(int(rng.integers(8_000, 40_000))) / 24_000
                clean = 0.3 * np.sin(2 * np.pi * rng.uniform(200, 2000) * time_s)
                noisy = clean + noise(rng, clean)
                meta = {
                    "utt_id": f"{split}/{number}", "copy": 0, "split": split, "text": "hello there", "language": "en",
                    "speaker": "s", "corpus": "c", "licence": "", "snr_db": 5.0, "room_id": "",
                }  # fmt: skip
                key = f"{split}-{number:04d}"
                waves = {"clean": clean.astype(np.float32), "noisy": noisy.astype(np.float32)}
                writer.add(Mixture(key=key, **waves, sample_rate=24_000, meta=meta))
            rows = with_tokens(writer.close())
        indexes.append(folder / f"{name}.index.parquet")
        write_index(indexes[-1], rows)
    digest = merge_indexes(indexes, folder / "index.parquet")
    dataset_summary(digest=digest).write(folder / "dataset.json")
    return folder
