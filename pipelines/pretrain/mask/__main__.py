"""Command line of the recipe: ``python -m pipelines.pretrain.mask pack|train|export|testset``; no word: three."""

from __future__ import annotations

import argparse
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from flowse.errors import UserError
from flowse.export import ModelConfig, save
from flowse.flow.sampling import Sampling
from flowse.pretrained import resolve
from pipelines.pretrain.mask.losses import MaskLossConfig
from pipelines.pretrain.mask.pools import TABLE, Pools
from pipelines.pretrain.mask.training import MaskTraining, MaskTrainingConfig, averaged
from pipelines.pretrain.scheduled import CHECKPOINT, add_options, command, train_to_end

MODEL = "model"
PACK = "pack"
VOCODER = "vocos-mel-24khz-small"


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    default = MaskTrainingConfig()
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.pretrain.mask",
        description="Train the mask embedded as flowse-small: pack recordings, learn from mixtures of them, export.",
    )
    parser.add_argument("step", nargs="?", default="all", choices=("pack", "train", "export", "all", "testset"))
    parser.add_argument("--audio", type=Path, help="to pack: folder with manifest.csv (path, kind, split, corpus, …)")
    parser.add_argument("--more", type=Path, help="to pack: folder with speech.csv and noise.csv of further corpora")
    parser.add_argument("--split", default="train", choices=("train", "dev"), help="to pack: dev is for tests")
    parser.add_argument("--out", type=Path, required=True, help="folder of pack/, checkpoint and model/")
    parser.add_argument("--pack", type=Path, nargs="+", help="to train: packs, or the parts of one (default: OUT/pack)")
    parser.add_argument("--init", type=Path, help="to train: checkpoint whose weights a new schedule begins with")
    parser.add_argument("--lr", type=float, default=default.lr)
    parser.add_argument("--loss", type=float, default=default.loss.loss, help="extra weight of speech that is lost")
    add_options(parser, steps=default.steps, batch=default.batch, seed=default.seed, precision=default.precision)
    parser.add_argument("--count", type=int, default=200, help="mixtures of the test set, written to OUT")
    parser.add_argument("--checkpoint", type=Path, help="to export (default: OUT/checkpoint.pt)")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Do the steps asked for; returns the exit status: 0, or 2 after a one-line error."""
    return command(parse(argv), work)


def work(args: argparse.Namespace) -> None:
    """Do the steps asked for.

    Raises:
        UserError: What they need is not there.
    """
    if args.step in ("pack", "all") and not (args.out / PACK / TABLE).exists():
        pack(args)
    if args.step in ("train", "all") and not train(args):
        return
    if args.step in ("export", "all"):
        export(args.checkpoint or args.out / CHECKPOINT, args.out / MODEL)
    if args.step == "testset":
        testset(args)


def pack(args: argparse.Namespace) -> None:
    """Choose recordings and code them, and say how much of every corpus was taken."""
    # Rooms are simulated and noise is made: what trains does not need these libraries.
    from pipelines.pretrain.mask.pack import PackConfig, recordings, write_pack

    if args.audio is None:
        raise UserError("--audio DIR says where the recordings are")
    config = PackConfig(split=args.split, seed=args.seed)
    seconds: dict[tuple[str, str, str], float] = defaultdict(float)
    for row in write_pack(args.out / PACK, recordings(args.audio, args.more), config, args.workers):
        seconds[row.kind, row.corpus, row.licence] += row.samples / row.rate
    for (kind, corpus, licence), length in sorted(seconds.items()):
        print(f"{kind:<7} {corpus:<28} {length / 60:6.1f} min  {licence}")


def testset(args: argparse.Namespace) -> None:
    """Write mixtures of what training does not hear: `python -m pipelines.pretrain.flowse_score` scores them."""
    from pipelines.pretrain.mask.pack import recordings
    from pipelines.pretrain.mask.testset import write_testset

    if args.audio is None:
        raise UserError("--audio DIR says where the recordings are")
    write_testset(args.out, recordings(args.audio, args.more), args.count, args.seed)
    print(f"python -m pipelines.pretrain.flowse_score --audio {args.out} --pairs {args.out}")


def train(args: argparse.Namespace) -> bool:
    """Train, or go on from the checkpoint; returns whether the schedule ended. A signal to stop saves first."""
    config = MaskTrainingConfig(
        loss=MaskLossConfig(loss=args.loss), steps=args.steps, seconds=args.seconds, batch=args.batch, lr=args.lr,
        precision=args.precision, seed=args.seed,
    )  # fmt: skip
    begun = time.monotonic()
    pools = Pools.load(args.pack or [args.out / PACK], args.device, args.workers)
    hours = [len(pool.samples) / 24_000 / 3600 for pool in (pools.speech, pools.noise)]
    training = MaskTraining(config, pools)
    checkpoint = args.out / CHECKPOINT
    if checkpoint.exists():
        training.load(checkpoint)
    elif args.init:
        training.begin_from(args.init)
    count = sum(weight.numel() for weight in training.system.parameters())
    print(
        f"{count:,} parameters; {hours[0]:.2f} h of speech, {hours[1]:.2f} h of noise, "
        f"{len(pools.rooms.voice) - 1} pairs of responses; ready after {time.monotonic() - begun:.1f} s, "
        f"at step {training.step}",
        flush=True,
    )
    return train_to_end(training, checkpoint, args.save_every_s)


def export(checkpoint: Path, folder: Path) -> None:
    """Write the averaged weights as a model folder, in 16 bits."""
    if not checkpoint.is_file():
        raise UserError(f"{checkpoint}: no such checkpoint; `train` writes it")
    spec = MaskTrainingConfig().spec
    state = {name: value.half() for name, value in averaged(checkpoint, spec).state_dict().items()}
    config = ModelConfig(spec=spec, sampling=Sampling(steps=1, synthesis="noisy_phase"))
    card = "# flowse-small\n\nTrained by `python -m pipelines.pretrain.mask`.\n"
    save(folder, config, state, resolve(VOCODER), card, overwrite=True)
    print(folder)


if __name__ == "__main__":
    sys.exit(main())
