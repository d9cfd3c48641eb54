"""The commands that train and score an embedded model: `python -m pipelines.pretrain train|score MODEL`."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from flowse.errors import UserError
from flowse.pretrained import names, resolve

MODELS = ("whisper", "vocos", "speaker", "flowse")
RUNS = Path("runs/pretrain")

# The model that a recipe writes below RUNS, and the file in an embedded model's folder that its scoring takes.
_TRAINED = {
    "whisper": "whisper/model.pt",
    "vocos": "vocos/model",
    "speaker": "speaker/speaker.onnx",
    "flowse": "flowse/model",
}
_FILE = {"whisper": "model.pt", "vocos": "", "speaker": "*.onnx", "flowse": ""}
_REQUIRED = ("train", "dev", "manifest.csv")


def parse(arguments: Sequence[str] | None) -> tuple[argparse.Namespace, list[str]]:
    """Parse the command line; return the arguments and the remaining words, which are for the recipe."""
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.pretrain",
        allow_abbrev=False,  # an abbreviated option may be meant for the recipe
        description="Train an embedded model anew, or score it with the figures of its card.",
        epilog="Further options go to the recipe; `python -m pipelines.pretrain.MODEL --help` names them (flowse: "
        "`python -m pipelines.pretrain.mask --help` to train, `… pipelines.pretrain.flowse_score --help` to score).",
    )
    parser.add_argument("action", choices=("train", "score"), help="what to do")
    parser.add_argument("name", metavar="MODEL", help=", ".join(MODELS))
    parser.add_argument(
        "--audio", type=Path, default=Path("data/audio"), metavar="DIR",
        help="recordings: train/, dev/, manifest.csv (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--model", default="", metavar="PATH", help="score this model (default: the embedded one of that kind)"
    )
    return parser.parse_known_args(arguments)


def check_audio(audio: Path, action: str, name: str) -> Path:
    """Return the absolute path of the folder of recordings.

    Raises:
        UserError: The folder does not exist, or lacks a required file or folder.
    """
    missing = [name for name in _REQUIRED if not (audio / name).exists()]
    if missing:
        what = "no such folder" if not audio.is_dir() else f"lacks {', '.join(missing)}"
        word = "pretrain" if action == "train" else "score"
        raise UserError(
            f"{audio}: {what}; the recordings' folder holds train/speech, train/noise, dev/ and manifest.csv (path, "
            f"kind, split, speaker, language, text, licence): make {word} MODEL={name} AUDIO=DIR"
        )
    return audio.resolve()


def find_model(name: str, given: str) -> Path:
    """Find the model to score.

    Args:
        name: Kind of the model, one of `MODELS`.
        given: Path or name of an embedded model; empty: the embedded model of that kind.

    Raises:
        UserError: There is no such model.
    """
    shipped = [embedded for embedded in names() if embedded.split("-")[0] == name]
    trained = str(RUNS / _TRAINED[name])
    if not given and not shipped:
        raise UserError(
            f"no {name} model is shipped yet; train one (make pretrain MODEL={name}) and name it: "
            f'make score MODEL={name} ARGS="--model {trained}"'
        )
    try:
        found = resolve(given or shipped[0])
    except FileNotFoundError as error:
        raise UserError(f"--model: {error}") from None
    if found.is_dir() and _FILE[name]:
        inside = sorted(found.glob(_FILE[name]))
        if len(inside) != 1:
            raise UserError(f"--model: {found} holds {len(inside)} files {_FILE[name]}, one is wanted; give the file")
        return inside[0].resolve()
    return found.resolve()


def command(action: str, name: str, audio: Path, model: Path | None) -> list[str]:
    """Return the arguments of `python -m` that train or score a model.

    Args:
        action: "train" or "score".
        name: Kind of the model, one of `MODELS`.
        audio: Folder of recordings.
        model: File or folder of the model to score; None for training.
    """
    run = str(RUNS / name)
    words: tuple[object, ...]
    if action == "train":
        words = {
            "whisper": ("--audio", audio / "train", "--resume"),
            "vocos": ("--audio", audio / "train", "--weight", "en=2", "--resume"),
            "speaker": ("--audio", audio),
            "flowse": ("--audio", audio),
        }[name]
        return [f"pipelines.pretrain.{'mask' if name == 'flowse' else name}", "--out", run, *map(str, words)]
    words = {
        "whisper": ("whisper", "--score", model, "--audio", audio),
        "vocos": ("vocos", "--out", run, "--model", model, "--score", audio / "dev" / "speech"),
        "speaker": ("speaker", "--out", run, "--score", model, "--audio", audio),
        "flowse": ("flowse_score", "--model", model, "--audio", audio),
    }[name]
    return [f"pipelines.pretrain.{words[0]}", *map(str, words[1:])]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the recipe in a subprocess; return its exit status, or 2 after a one-line error."""
    args, recipe_words = parse(arguments)
    try:
        if args.name not in MODELS:
            raise UserError(f"no model {args.name!r}; the models are {', '.join(MODELS)}")
        if args.action == "train" and args.model:
            raise UserError("--model is for score; training writes to runs/")
        audio = check_audio(args.audio, args.action, args.name)
        model = find_model(args.name, args.model) if args.action == "score" else None
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    called = command(args.action, args.name, audio, model) + recipe_words
    print(f"python -m {' '.join(called)}", flush=True)
    try:
        return subprocess.call([sys.executable, "-m", *called])
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
