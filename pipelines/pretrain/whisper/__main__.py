"""Command line of the Whisper recipe: `python -m pipelines.pretrain.whisper --help`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch
import whisper

from flowse.whisper.config import Decoding
from pipelines.corpora.demo.sentences import LANGUAGES
from pipelines.pretrain.stopping import stop_on_signal
from pipelines.pretrain.whisper.cache import render
from pipelines.pretrain.whisper.corpus import Corpus
from pipelines.pretrain.whisper.model import export
from pipelines.pretrain.whisper.scoring import real, score, table, unseen
from pipelines.pretrain.whisper.training import Recipe, Trainer

Report = Callable[[int, dict[str, float]], None]


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.pretrain.whisper",
        description="Train the small multilingual Whisper of flowse/pretrained/whisper-tiny, or score one.",
    )
    parser.add_argument("--out", type=Path, default=Path("runs/pretrain/whisper"), help="folder of the run")
    parser.add_argument("--audio", type=Path, help="folder of real recordings, beside its manifest.csv; may be absent")
    parser.add_argument("--steps", type=int, default=Recipe.steps, help="length of the schedule")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in --out, if any")
    parser.add_argument("--threads", type=int, default=2, help="threads of the training")
    parser.add_argument("--processes", type=int, default=4, help="processes that render the clips")
    parser.add_argument("--seed", type=int, default=Recipe.seed)
    parser.add_argument("--mlflow", action="store_true", help="log to an sqlite store in --out")
    parser.add_argument("--export", type=Path, metavar="FILE", help="write the checkpoint of --out there, and stop")
    parser.add_argument("--score", type=Path, metavar="FILE", help="score a model, and stop")
    parser.add_argument("--sentences", type=int, default=30, help="unseen sentences a language for --score")
    parser.add_argument("--beams", type=int, default=Decoding.beam_size, help="of the search of --score; 1 is greedy")
    return parser.parse_args(arguments)


def show_scores(model: Path, sentences: int, beams: int, audio: Path | None) -> None:
    """Print the scores of a model on unseen sentences in unseen voices, then on real recordings."""
    loaded = whisper.load_model(str(model), device="cpu")
    print(
        "Unseen sentences in unseen voices:\n" + table(score(loaded, unseen(LANGUAGES, sentences), beams)), flush=True
    )
    if audio is not None:
        root = audio if (audio / "manifest.csv").exists() else audio.parent
        for under in ("dev/languages", "dev/speech"):
            print(f"\nReal recordings, {under}:\n" + table(score(loaded, real(root, under), beams)), flush=True)


def reporter(out: Path, recipe: Recipe, log_to_mlflow: bool) -> Report:
    """Return a function that prints a line of progress, and logs the figures to MLflow if `log_to_mlflow` is set."""
    if log_to_mlflow:
        import mlflow

        mlflow.set_tracking_uri(f"sqlite:///{(out / 'mlflow.db').resolve()}")
        mlflow.set_experiment("pretrain-whisper")
        mlflow.start_run(run_name=out.name)
        mlflow.log_params({key: str(value) for key, value in asdict(recipe).items()})

    def report(step: int, figures: dict[str, float]) -> None:
        losses = " ".join(f"{k.removeprefix('loss/')} {v:.3f}" for k, v in figures.items() if k.startswith("loss/"))
        print(
            f"step {step}/{recipe.steps}  {losses}  {figures['steps_per_s']:.2f} steps/s  "
            f"{figures['left_s'] / 60:.0f} min left",
            flush=True,
        )
        if log_to_mlflow:
            mlflow.log_metrics(figures, step=step)

    return report


def main(arguments: list[str] | None = None) -> int:
    """Render missing clips, train to the end and export, or score; return the exit status (3: stopped, resumable)."""
    args = parse(arguments)
    torch.set_num_threads(args.threads)
    if args.score:
        show_scores(args.score, args.sentences, args.beams, args.audio)
        return 0
    recipe = Recipe(steps=args.steps, seed=args.seed)
    if not args.export:
        render(args.out / "clips", args.audio, args.seed, args.processes)
    trainer = Trainer(recipe, Corpus(args.out / "clips"), args.out)
    if trainer.checkpoint.exists() and not (args.resume or args.export):
        raise SystemExit(f"{trainer.checkpoint} exists: add --resume to go on from it, or choose another --out")
    print("resumed at step" if trainer.resume() else "starting at step", trainer.step, flush=True)
    if args.export:
        export(trainer.average, recipe.dims, args.export)
        return 0

    trainer.stop_requested = stop_on_signal()
    trainer.run(report=reporter(args.out, recipe, args.mlflow))
    if trainer.step < recipe.steps:
        print(f"stopped at step {trainer.step}; the same command with --resume goes on", flush=True)
        return 3
    export(trainer.average, recipe.dims, args.out / "model.pt")
    return 0


if __name__ == "__main__":
    sys.exit(main())
