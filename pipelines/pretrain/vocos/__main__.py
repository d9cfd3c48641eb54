"""Command line of the recipe: ``python -m pipelines.pretrain.vocos --out runs/pretrain/vocos --steps 12000``."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import torch

from pipelines.pretrain.vocos.crops import CropConfig, Crops
from pipelines.pretrain.vocos.training import TrainingConfig, VocoderTraining, export


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m pipelines.pretrain.vocos", description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--audio", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=12_000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--weight", action="append", default=[])
    parser.add_argument("--export", type=Path)
    parser.add_argument("--save-every-s", type=float, default=240)
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    config = TrainingConfig(steps=args.steps)
    weights = {name: float(value) for name, value in (item.split("=") for item in args.weight)}
    since = time.monotonic()
    crops = Crops.from_folder(args.audio, CropConfig(), config.seed, weights)
    for g in (*crops.speech, *crops.noise):
        print(f"{g.name}: {g.hours:.2f} h", flush=True)
    print(f"read in {time.monotonic() - since:.0f} s", flush=True)
    training = VocoderTraining(config, crops)
    checkpoint = args.out / "checkpoint.pt"
    if args.resume and checkpoint.exists():
        training.load(checkpoint)
        print(f"resumed at step {training.step}", flush=True)
    print(f"{sum(p.numel() for p in training.model.parameters()) / 1e6:.2f} M parameters", flush=True)
    saved = time.monotonic()
    for progress in training.run():
        print(progress, flush=True)
        if time.monotonic() - saved > args.save_every_s or training.step == config.steps:
            training.save(checkpoint)
            export(training.ema, config, args.export or args.out / "model")
            saved = time.monotonic()
    return 0


if __name__ == "__main__":
    sys.exit(main())
