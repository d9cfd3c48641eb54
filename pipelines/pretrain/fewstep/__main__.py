"""Command line of the recipe: ``python -m pipelines.pretrain.fewstep flow|distil|data --pack DIR --out DIR``."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file

from flowse.errors import UserError
from flowse.export import WEIGHTS, ModelConfig, load, read_config, save
from flowse.flow.sampling import Sampling
from flowse.model.spec import DiTConfig
from flowse.pretrained import resolve
from pipelines.pretrain.fewstep.training import KINDS, MEDIUM, FewStepConfig, FewStepTraining
from pipelines.pretrain.fewstep.validation import Validation
from pipelines.pretrain.mask.pools import Pools
from pipelines.pretrain.stopping import stop_on_signal

CHECKPOINT = "checkpoint.pt"
MODEL = "model"
VOCODER = "vocos-mel-24khz-small"


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    default = FewStepConfig()
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.pretrain.fewstep",
        description="Train a mel flow for one to four evaluations: a plain flow first, then from its OUT/model either "
        "its average velocity (distil) or a refinement of a mask's estimate (data). Ends with OUT/model, measured.",
    )
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("--pack", type=Path, nargs="+", required=True, help="written by pipelines.pretrain.mask pack")
    parser.add_argument("--held-out", type=Path, required=True, help="a pack of split dev, to measure on")
    parser.add_argument("--out", type=Path, required=True, help="folder of the checkpoint and of model/")
    parser.add_argument("--flow", type=Path, help="model folder of the trained flow, for distil and data")
    parser.add_argument("--mask", default="flowse-small", help="mask that data refines, and whose mel all kinds use")
    parser.add_argument("--steps", type=int, help="length of the schedule (default: the kind's)")
    parser.add_argument("--seconds", type=float, default=default.seconds, help="its length by the clock instead")
    parser.add_argument("--batch", type=int, default=default.batch)
    parser.add_argument("--dim", type=int, default=MEDIUM.dim)
    parser.add_argument("--depth", type=int, default=MEDIUM.depth)
    parser.add_argument("--precision", default="", choices=("", "fp32", "bf16"), help="default: bf16 on a GPU")
    parser.add_argument("--seed", type=int, default=default.seed)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--workers", type=int, default=2, help="processes that decode")
    parser.add_argument("--threads", type=int, default=2, help="of the training on a CPU")
    parser.add_argument("--validate", type=int, default=64, help="held-out mixtures to measure on")
    parser.add_argument("--save-every-s", type=float, default=60.0)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Train, measure and export; returns the exit status: 0, or 2 after a one-line error."""
    args = parse(argv)
    torch.set_num_threads(args.threads)
    try:
        args.out.mkdir(parents=True, exist_ok=True)
        train(args)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def config_of(args: argparse.Namespace) -> FewStepConfig:
    """Return the settings that the command line asks for.

    Raises:
        UserError: The network's size is impossible.
    """
    gpu = args.device != "cpu"
    try:
        model = dataclasses.replace(MEDIUM, dim=args.dim, depth=args.depth, heads=max(1, args.dim // 64))
    except ValueError as error:
        raise UserError(f"--dim, --depth: {error}") from None
    changes = {"steps": args.steps} if args.steps else {}
    return FewStepConfig.of(
        args.kind,
        model=model,
        seconds=args.seconds,
        batch=args.batch,
        precision=args.precision or ("bf16" if gpu else "fp32"),
        compile=gpu,
        seed=args.seed,
        **changes,
    )


def train(args: argparse.Namespace) -> None:
    """Train, or go on from the checkpoint; a signal to stop saves first. At the end, measure and export.

    Raises:
        UserError: A pack or a model cannot be read, or the flow is missing or of another size.
    """
    stop = stop_on_signal()
    config = config_of(args)
    mask = resolve(args.mask)
    spec = read_config(mask).spec
    predictor = spec, load_file(mask / WEIGHTS)
    held_out = Pools.load([args.held_out], args.device, args.workers)
    pools = Pools.load(args.pack, args.device, args.workers)
    flow = None if args.kind == "flow" else flow_weights(args.flow, config.model)
    checkpoint = args.out / CHECKPOINT
    sigma = torch.load(checkpoint, weights_only=True)["sigma"] if checkpoint.exists() else 0.0
    training = FewStepTraining(config, pools, predictor, flow, sigma)
    validation = Validation.of(training, held_out, args.validate)
    if args.kind == "data" and not checkpoint.exists():
        # The noise covers what the mask errs by, on recordings that nobody trained on.
        training = FewStepTraining(config, pools, predictor, flow, validation.deviation(training.system))
    if checkpoint.exists():
        training.load(checkpoint)
    count = sum(weight.numel() for weight in training.system.network.parameters())
    print(f"{count:,} parameters, sigma {training.spec.flow.sigma:.3f}, at step {training.step}", flush=True)
    saved = time.monotonic()
    for line in training.run():
        print(line, flush=True)
        if time.monotonic() - saved > args.save_every_s or stop.is_set():
            training.save(checkpoint)
            saved = time.monotonic()
        if stop.is_set():
            return
    training.save(checkpoint)
    print(json.dumps(figures(training, validation)))
    export(training, validation, args.out / MODEL)


def flow_weights(folder: Path | None, model: DiTConfig) -> dict[str, torch.Tensor]:
    """Read the weights of the trained flow.

    Raises:
        UserError: There is none, or it is no plain flow of this size.
    """
    if folder is None:
        raise UserError("--flow DIR names the trained flow's model folder; train it first: … fewstep flow")
    system, config = load(folder)
    if config.spec.model != model or config.spec.jumps or config.spec.flow.source != "gaussian":
        raise UserError(f"--flow {folder}: no plain flow of --dim {model.dim} --depth {model.depth}")
    return system.state_dict()


def figures(training: FewStepTraining, validation: Validation) -> dict[str, float]:
    """Measure the averaged weights: distances of log-mels by number of steps, and the residual of jumps."""
    found = {}
    with training.average.applied():
        for steps in (1, 2, 4, 8, 32):
            found[f"log-mel, {steps} steps"] = validation.distance(training.system, Sampling(steps=steps))
    if training.config.kind == "distil":
        found["residual"] = validation.residual(training)
    return found


def export(training: FewStepTraining, validation: Validation, folder: Path) -> None:
    """Write the averaged weights as a model folder, in 16 bits, with the settings that suit it."""
    kind, spec = training.config.kind, training.spec
    sampling = Sampling(steps={"flow": 32, "distil": 2, "data": 2}[kind], synthesis="noisy_phase")
    if kind == "data":
        with training.average.applied():
            sampling = dataclasses.replace(sampling, guard=validation.guard(training.system, sampling))
    state = {name: value.half() for name, value in training.averaged().items()}
    card = f"# flowse-{kind}\n\nTrained by `python -m pipelines.pretrain.fewstep {kind}`.\n"
    save(folder, ModelConfig(spec=spec, sampling=sampling), state, resolve(VOCODER), card, overwrite=True)
    print(folder)


if __name__ == "__main__":
    sys.exit(main())
