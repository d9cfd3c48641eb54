"""Command line of the recipe: ``python -m pipelines.pretrain.fewstep KIND --pack DIR --held-out DIR --out DIR``."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file

from flowse.enhancer import Enhancer
from flowse.errors import UserError
from flowse.export import WEIGHTS, ModelConfig, load, read_config, save
from flowse.flow.guard import GuardConfig
from flowse.flow.sampling import Sampling
from flowse.model.spec import DiTConfig, ModelSpec
from flowse.pretrained import resolve
from pipelines.pretrain.fewstep.training import KINDS, MEDIUM, FewStepConfig, FewStepTraining
from pipelines.pretrain.fewstep.validation import Validation
from pipelines.pretrain.mask.pools import Pools
from pipelines.pretrain.scheduled import CHECKPOINT, add_options, command, train_to_end

MODEL = "model"
VOCODER = "vocos-mel-24khz-small"


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    default = FewStepConfig()
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.pretrain.fewstep",
        description="Train a mel flow for one to four evaluations: a plain flow first, then from its OUT/model either "
        "its average velocity (distil) or a refinement of a mask's estimate (data), whose average velocity can be "
        "distilled, too; or a regression of the same size. Ends with OUT/model, measured.",
    )
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("--pack", type=Path, nargs="+", required=True, help="written by pipelines.pretrain.mask pack")
    parser.add_argument("--held-out", type=Path, required=True, help="a pack of split dev, to measure on")
    parser.add_argument("--out", type=Path, required=True, help="folder of the checkpoint and of model/")
    parser.add_argument(
        "--flow", type=Path, help="model folder of the trained flow, for distil (also a refinement) and data"
    )
    parser.add_argument("--mask", default="flowse-small", help="mask that data refines, and whose mel all kinds use")
    parser.add_argument("--dim", type=int, default=MEDIUM.dim)
    parser.add_argument("--depth", type=int, default=MEDIUM.depth)
    add_options(parser, steps=None, batch=default.batch, seed=default.seed, precision="")
    parser.add_argument("--lr", type=float, help="peak of the learning rate (default: the kind's)")
    parser.add_argument("--again", type=int, default=default.again, help="steps for each new batch of mixtures")
    parser.add_argument("--validate", type=int, default=64, help="held-out mixtures to measure on")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Train, measure and export; returns the exit status: 0, or 2 after a one-line error."""
    return command(parse(argv), train)


def config_of(args: argparse.Namespace) -> FewStepConfig:
    """Return the settings that the command line asks for.

    Raises:
        UserError: A setting is impossible.
    """
    gpu = args.device != "cpu"
    try:
        model = dataclasses.replace(MEDIUM, dim=args.dim, depth=args.depth, heads=max(1, args.dim // 64))
    except ValueError as error:
        raise UserError(f"--dim, --depth: {error}") from None
    if args.validate < 1:
        raise UserError(f"--validate {args.validate}: at least one mixture must be measured on")
    changes: dict[str, object] = {} if args.steps is None else {"steps": args.steps}
    try:
        if args.lr is not None:
            changes["optim"] = dataclasses.replace(FewStepConfig.of(args.kind).optim, lr=args.lr)
        return FewStepConfig.of(
            args.kind,
            model=model,
            seconds=args.seconds,
            batch=args.batch,
            again=args.again,
            precision=args.precision or ("bf16" if gpu else "fp32"),
            compile=gpu,
            seed=args.seed,
            **changes,
        )
    except ValueError as error:
        raise UserError(f"--{error}") from None


def train(args: argparse.Namespace) -> None:
    """Train, or go on from the checkpoint; a signal to stop saves first. At the end, measure and export.

    Raises:
        UserError: A pack or a model cannot be read, or the flow is missing or of another size.
    """
    config = config_of(args)
    mask = resolve(args.mask)
    spec = read_config(mask).spec
    predictor = spec, load_file(mask / WEIGHTS)
    held_out = Pools.load([args.held_out], args.device, args.workers)
    pools = Pools.load(args.pack, args.device, args.workers)
    start = None if args.kind in ("flow", "regression") else start_of(args.kind, args.flow, config.model)
    checkpoint = args.out / CHECKPOINT
    sigma = torch.load(checkpoint, weights_only=True)["sigma"] if checkpoint.exists() else 0.0
    training = FewStepTraining(config, pools, predictor, start, sigma)
    validation = Validation.of(training, held_out, args.validate)
    if args.kind == "data" and not checkpoint.exists():
        # The noise covers what the mask errs by, on recordings that nobody trained on.
        training = FewStepTraining(config, pools, predictor, start, validation.deviation(training.system))
    if checkpoint.exists():
        training.load(checkpoint)
    count = sum(weight.numel() for weight in training.system.network.parameters())
    print(f"{count:,} parameters, sigma {training.spec.flow.sigma:.3f}, at step {training.step}", flush=True)
    if train_to_end(training, checkpoint, args.save_every_s):
        print(json.dumps(figures(training, validation)))
        export(training, validation, args.out / MODEL)


def start_of(kind: str, folder: Path | None, model: DiTConfig) -> tuple[ModelSpec, dict[str, torch.Tensor]]:
    """Read spec and weights of the trained flow.

    Args:
        kind: "distil", which takes a refinement as well, or "data".
        folder: Its model folder.
        model: The size that is asked for.

    Raises:
        UserError: There is none, or it is no flow of this size.
    """
    if folder is None:
        raise UserError("--flow DIR names the trained flow's model folder; train it first: … fewstep flow")
    system, config = load(folder)
    spec = config.spec
    plain = spec.objective == "flow" and not spec.jumps
    if spec.model != model or not plain or (kind == "data" and spec.flow.source != "gaussian"):
        what = "flow that was not distilled" if kind == "distil" else "plain flow"
        raise UserError(f"--flow {folder}: no {what}, of --dim {model.dim} --depth {model.depth}")
    return spec, system.state_dict()


def figures(training: FewStepTraining, validation: Validation) -> dict[str, float]:
    """Measure the averaged weights: distances of log-mels by number of steps, and the residual of jumps."""
    found = {}
    with training.average.applied():
        for steps in (1, 2, 4, 8, 32) if training.spec.objective == "flow" else (1,):
            found[f"log-mel, {steps} steps"] = validation.distance(training.system, Sampling(steps=steps))
    if training.config.kind == "distil":
        found["residual"] = validation.residual(training)
    return found


def export(training: FewStepTraining, validation: Validation, folder: Path) -> None:
    """Write the averaged weights as a model folder, in 16 bits, with the settings that suit it."""
    kind, spec = training.config.kind, training.spec
    steps = {"flow": 32, "distil": 2, "data": 2, "regression": 1}[kind]
    sampling = Sampling(steps=steps, synthesis="noisy_phase")
    if spec.flow.source == "predicted":
        with training.average.applied():
            enhancer = Enhancer.from_parts(training.system, ModelConfig(spec=spec, sampling=sampling), resolve(VOCODER))
            guard = validation.guard(enhancer, GuardConfig(mixtures=len(validation.noisy), sampling=sampling))
        print(guard)
        sampling = dataclasses.replace(sampling, guard=guard.guard)
    state = {name: value.half() for name, value in training.averaged().items()}
    card = f"# flowse-{kind}\n\nTrained by `python -m pipelines.pretrain.fewstep {kind}`.\n"
    save(folder, ModelConfig(spec=spec, sampling=sampling), state, resolve(VOCODER), card, overwrite=True)
    print(folder)


if __name__ == "__main__":
    sys.exit(main())
