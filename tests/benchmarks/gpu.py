"""Train the full-size model on a GPU with made-up mels: frames a second, MFU and memory, eager and compiled.

    python -m tests.benchmarks.gpu [--frames 19200] [--steps 40] [--long 2000] [--device cuda]

Lengths are those of a corpus of short and long utterances (log-normal, mean 4 s, to 20 s), and steps are planned as in
a training. The rates are given with attention under a mask, as a mask excludes flash kernels, and without; then
compiled; then `--long` steps of the paper's 4,800 frames a GPU. MFU counts real frames alone: padding is waste.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from flowse.data.batching import Batch, Step
from flowse.data.step_plan import Position, StepPlan
from flowse.flow.config import LossConfig
from flowse.flow.path import Draws
from flowse.model.blocks import flash_agrees
from flowse.model.spec import PAPER, ModelSpec
from flowse.model.system import build
from flowse.tokenizer import Tokenizer
from flowse.training.config import LoopConfig, OptimConfig
from flowse.training.loop import TrainBatch, Trainer
from flowse.training.throughput import peak_flops, training_flops_per_frame


class MadeUp:
    """A loader whose mels are cut from one random tensor on the device: nothing but the training is measured."""

    frame_s = 256 / 24_000

    def __init__(self, frames_per_step: int, device: str) -> None:
        seconds = np.clip(np.random.default_rng(0).lognormal(1.2, 0.6, 100_000), 0.5, 20)
        self.frames = (seconds * 93.75).astype(int) + 1
        self.utterances = len(self.frames)
        self._plan = StepPlan(self.frames, frames_per_step, 0)
        generator = torch.Generator(device).manual_seed(0)
        self._mels = torch.randn(2 * frames_per_step, 100, generator=generator, device=device) - 5
        self._noise = torch.randn(2 * frames_per_step, 100, generator=generator, device=device)
        self.shapes: set[tuple[int, int]] = set()

    def steps(self, number: int = 0, position: Position | None = None, divisible_by: int = 1) -> Iterator[Step[Any]]:
        rng = np.random.default_rng(1)
        for planned in self._plan.steps(position or Position()):
            count, length = len(planned.utterances), planned.length
            self.shapes.add((count, length))
            mel, noise = (x[: count * length].view(count, length, 100) for x in (self._mels, self._noise))
            lengths = torch.tensor([int(self.frames[index]) for index in planned.utterances])
            ids = torch.from_numpy(rng.integers(1, 100, (count, min(length, 60))))
            keys, seeds = tuple(map(str, planned.utterances)), tuple(range(count))
            batch = Batch(keys, seeds, mel, 0.9 * mel - 0.5, lengths, ids)
            t = torch.from_numpy(rng.random(count, np.float32))
            no = torch.zeros(count, dtype=torch.bool)
            drawn = TrainBatch(batch, Draws(t, noise, no, no))
            yield Step(number, planned.after, (drawn,), int(lengths.sum()), count)
            number += 1


def measure(
    name: str, arguments: argparse.Namespace, frames: int, warm: int, steps: int, *, compiled: bool, flash: bool = True
) -> None:
    """Train `warm` and then `steps` steps, and print what the latter took."""
    device = arguments.device
    spec = ModelSpec(model=PAPER, vocabulary=Tokenizer.default().vocabulary, mel_mean=-5.0, mel_std=1.0)
    torch.manual_seed(0)
    loader = MadeUp(frames, device)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            build(spec),
            loader,  # type: ignore[arg-type]
            [],
            config=LoopConfig(
                max_steps=warm + steps + 1, log_every=1, checkpoint_every=0, validate_every=0, precision="bf16"
            ),
            optim=OptimConfig(lr=1e-4, warmup_steps=100, ema_decay=0.9999),
            loss=LossConfig(),
            folder=Path(folder),
            seed=0,
            identity={},
            device=device,
            compile_network=compiled,
        )
        trainer.system.flash_attention(flash and flash_agrees(device))
        run = trainer.run()
        begun = time.perf_counter()
        first, *_ = [next(run) for _ in range(warm)]
        torch.cuda.synchronize()
        start = time.perf_counter()
        torch.cuda.reset_peak_memory_stats()
        for _ in range(steps):
            last = next(run)
        torch.cuda.synchronize()
        seconds = time.perf_counter() - start
        run.close()
    done = sum(step.frames for step in itertools.islice(loader.steps(), warm, warm + steps))
    mean = float(loader.frames.mean())
    peak = peak_flops(device) or float("nan")
    mfu = done / seconds * training_flops_per_frame(spec, round(mean)) / peak
    print(
        f"{name:<34} {frames:6d} frames/step: {done / seconds:9,.0f} frames/s, MFU {mfu:5.1%}, "
        f"{torch.cuda.max_memory_allocated() / 2**30:5.1f} GiB, {1000 * seconds / steps:6.1f} ms a step, "
        f"{len(loader.shapes)} shapes, warm-up {start - begun:.0f} s, loss {first.losses['loss']:.3f} -> "
        f"{last.losses['loss']:.3f}, {trainer.skipped.skipped_steps} steps skipped",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=19_200)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--long", type=int, default=2000)
    parser.add_argument("--device", default="cuda")
    arguments = parser.parse_args()
    torch.set_float32_matmul_precision("high")
    print(torch.cuda.get_device_name(arguments.device), "torch", torch.__version__, flush=True)
    frames, steps = arguments.frames, arguments.steps
    measure("eager, attention under a mask", arguments, frames, 15, steps, compiled=False, flash=False)
    measure("eager, flash attention", arguments, frames, 15, steps, compiled=False)
    measure("compiled, flash attention", arguments, frames, 60, 2 * steps, compiled=True)
    if arguments.long:
        measure("compiled, the paper's share of a GPU", arguments, 4800, 60, arguments.long, compiled=True)


if __name__ == "__main__":
    main()
