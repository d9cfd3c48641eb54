"""Command line of the Vocos recipe: ``python -m pipelines.pretrain.vocos --out DIR --audio DIR``."""

from __future__ import annotations

import argparse
import dataclasses
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from flowse.audio.recordings import find_recordings
from flowse.audio.vocoder import load_vocoder
from flowse.files import atomic_path
from pipelines.pretrain.stopping import stop_on_signal
from pipelines.pretrain.vocos.crops import CropConfig, Crops
from pipelines.pretrain.vocos.scoring import copy_scores
from pipelines.pretrain.vocos.training import TrainingConfig, VocoderTraining, export

CHECKPOINT = "checkpoint.pt"
MODEL = "model"


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.pretrain.vocos",
        description="Train a small Vocos on recordings, or score one by copy-synthesis.",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the checkpoint and the model")
    parser.add_argument("--audio", type=Path, help="folder with speech/<group>/ and noise/")
    parser.add_argument("--weight", action="append", default=[], metavar="GROUP=W", help="share of a group (1)")
    parser.add_argument("--steps", type=int, default=TrainingConfig.steps, help="length of the schedule")
    parser.add_argument(
        "--adversarial-from",
        type=float,
        default=TrainingConfig.adversarial_from,
        help="fraction of the schedule after which the discriminators join; 1 leaves them out",
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in --out, if any")
    parser.add_argument("--save-every-s", type=float, default=180.0)
    parser.add_argument("--mlflow", action="store_true", help="log to a sqlite store in --out")
    parser.add_argument("--publish", type=Path, metavar="FOLDER", help="copy the model of --out there, and stop")
    parser.add_argument(
        "--score", type=Path, metavar="FOLDER", help="score on the recordings in each folder of it, and stop"
    )
    parser.add_argument("--model", type=Path, metavar="FOLDER", help="with --score: this model, not that of --out")
    parser.add_argument("--every", type=int, default=1, help="score every n-th recording only")
    parser.add_argument("--refine-steps", type=int, default=0, help="score with so many steps of Griffin-Lim after it")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Train, publish or score; return the exit status (3: stopped by a signal, resumable)."""
    args = parse(argv)
    torch.set_num_threads(args.threads)
    if args.publish:
        return publish(args.out / MODEL, args.publish)
    if args.score:
        return score(args.model or args.out / MODEL, args.score, args.every, args.refine_steps, args.threads)
    if args.audio is None:
        raise SystemExit("--audio is needed to train")
    return train(args)


def train(args: argparse.Namespace) -> int:
    """Train to the end of the schedule or until a signal; save every few minutes and at the end."""
    args.out.mkdir(parents=True, exist_ok=True)
    checkpoint = args.out / CHECKPOINT
    if checkpoint.exists() and not args.resume:
        raise SystemExit(f"{checkpoint} exists: add --resume to go on from it, or choose another --out")
    config = TrainingConfig(steps=args.steps, adversarial_from=args.adversarial_from)
    weights = {name: float(value) for name, value in (item.split("=") for item in args.weight)}
    crops = Crops.from_folder(args.audio, CropConfig(sample_rate=config.mel.sample_rate), config.seed, weights)
    for group in (*crops.speech, *crops.noise):
        print(f"{group.name}: {len(group.samples) / config.mel.sample_rate / 3600:.2f} h", flush=True)
    training = VocoderTraining(config, crops)
    if checkpoint.exists():
        training.load(checkpoint)
        print(f"resumed at step {training.step}", flush=True)
    parameters = sum(p.numel() for p in training.model.parameters())
    print(f"{parameters / 1e6:.2f} M parameters, {config.steps} steps", flush=True)

    stop_requested = stop_on_signal()
    log = _mlflow_log(args.out, config) if args.mlflow else None
    saved = time.monotonic()
    for progress in training.run():
        print(progress, flush=True)
        if log:
            log(progress.losses, progress.step)
        if stop_requested.is_set() or training.step == config.steps or time.monotonic() - saved > args.save_every_s:
            training.save(checkpoint)
            export(training.ema, config, args.out / MODEL)
            saved = time.monotonic()
        if stop_requested.is_set():
            print(f"stopped at step {training.step}; the same command with --resume goes on", flush=True)
            return 3
    return 0


def publish(model: Path, folder: Path) -> int:
    """Copy a model to a folder; each file is written atomically, the weights last."""
    for name in ("config.yaml", "pytorch_model.bin"):
        with atomic_path(folder / name) as temporary:
            shutil.copyfile(model / name, temporary)
    load_vocoder(folder)
    print(f"{model} -> {folder}")
    return 0


def score(model: Path, audio: Path, every: int, refine_steps: int, threads: int) -> int:
    """Print copy-synthesis scores for each folder of recordings under ``audio``."""
    vocoder = load_vocoder(model, refine_steps=refine_steps)
    for folder in sorted(path for path in audio.iterdir() if path.is_dir()):
        paths = sorted(find_recordings(folder))[::every]
        if paths:
            print(f"{folder.name}: {copy_scores(vocoder, paths, threads)}", flush=True)
    return 0


def _mlflow_log(out: Path, config: TrainingConfig) -> Callable[[dict[str, float], int], None]:
    """Open a run in ``out/mlflow.db``; return a function that logs the losses of a step."""
    import mlflow

    mlflow.set_tracking_uri(f"sqlite:///{(out / 'mlflow.db').resolve()}")
    mlflow.set_experiment("pretrain-vocos")
    mlflow.start_run()
    mlflow.log_params({key: str(value) for key, value in dataclasses.asdict(config).items()})

    def log(losses: dict[str, float], step: int) -> None:
        mlflow.log_metrics(losses, step=step)

    return log


if __name__ == "__main__":
    sys.exit(main())
