"""Command line of the speaker recipe: ``python -m pipelines.pretrain.speaker --out DIR --audio DIR``."""

from __future__ import annotations

import argparse
import csv
import sys
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch

from flowse.audio.waveform import read_mono
from flowse.metrics.speaker import BANDS, RATE, SpeakerEncoder
from pipelines.pretrain.speaker.crops import CropConfig, Crops
from pipelines.pretrain.speaker.scoring import speaker_score
from pipelines.pretrain.speaker.training import SpeakerTraining, TrainingConfig, export

CHECKPOINT = "checkpoint.pt"
MODEL = "speaker.onnx"


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.pretrain.speaker", description="Train a small speaker encoder, or score one."
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the checkpoint and the model")
    parser.add_argument(
        "--audio", type=Path, required=True, help="folder with manifest.csv: path, kind, split, speaker"
    )
    parser.add_argument("--steps", type=int, default=TrainingConfig.steps, help="length of the schedule")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--save-every-s", type=float, default=180.0)
    parser.add_argument("--score", type=Path, metavar="ONNX", help="score this encoder on split dev, and stop")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Train, resuming from the checkpoint in --out if there is one, or score; return the exit status."""
    args = parse(argv)
    torch.set_num_threads(args.threads)
    if args.score:
        print(score(args.score, args.audio, args.threads))
        return 0
    args.out.mkdir(parents=True, exist_ok=True)
    config = TrainingConfig(steps=args.steps)
    training = SpeakerTraining(config, Crops.from_folder(args.audio, CropConfig(), config.seed))
    checkpoint = args.out / CHECKPOINT
    if checkpoint.exists():
        training.load(checkpoint)
        print(f"goes on at step {training.step}", flush=True)
    parameters = sum(weight.numel() for weight in training.model.parameters())
    print(f"{parameters / 1e6:.2f} M parameters, {training.crops.classes} classes", flush=True)
    saved = time.monotonic()
    for line in training.run():
        print(line, flush=True)
        if training.step == config.steps or time.monotonic() - saved > args.save_every_s:
            training.save(checkpoint)
            export(training.average, BANDS, args.out / MODEL)
            saved = time.monotonic()
    print(score(args.out / MODEL, args.audio, args.threads))
    return 0


def score(model: Path, audio: Path, threads: int) -> str:
    """Score an encoder on the English speech of split dev."""
    encoder = SpeakerEncoder(model, threads)
    embeddings: dict[str, list[np.ndarray]] = defaultdict(list)
    with (audio / "manifest.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if (
                row["split"] == "dev"
                and row["kind"] == "speech"
                and row["speaker"]
                and row["path"].startswith("dev/speech/en")
            ):
                embeddings[row["speaker"]].append(encoder.embed(read_mono(audio / row["path"], RATE), RATE))
    return str(speaker_score(embeddings))


if __name__ == "__main__":
    sys.exit(main())
