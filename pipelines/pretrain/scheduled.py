"""A training that ends after some steps or some seconds: its learning rate, its loop, its checkpoint, its options."""

from __future__ import annotations

import argparse
import math
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from flowse.errors import UserError
from flowse.files import atomic_path
from pipelines.pretrain.stopping import stop_on_signal

CHECKPOINT = "checkpoint.pt"
"""Name of the checkpoint in the folder of a training."""


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How long a training lasts, and its learning rate meanwhile: a linear rise to the peak, then a cosine.

    Attributes:
        steps: Length in steps.
        seconds: Length by the clock instead; 0: by steps. The result then depends on the machine.
        lr: Peak of the learning rate.
        warmup: Share of the schedule until the peak.
        final_fraction: Learning rate at the end as a fraction of the peak.
    """

    steps: int
    seconds: float
    lr: float
    warmup: float
    final_fraction: float

    def progress(self, step: int, spent: float) -> float:
        """Return how much of the schedule is done after so many steps and seconds, 0..1."""
        return min(1.0, spent / self.seconds if self.seconds else step / self.steps)

    def rate(self, progress: float) -> float:
        """Return the learning rate at a point of the schedule."""
        if progress < self.warmup:
            return self.lr * max(progress / self.warmup, 0.02)
        fall = (1 + math.cos(math.pi * (progress - self.warmup) / (1 - self.warmup))) / 2
        return self.lr * (self.final_fraction + (1 - self.final_fraction) * fall)


class ScheduledTraining(ABC):
    """State of a training: its optimiser, the steps taken and the time spent; what is trained is the subclass's."""

    objective = "loss"
    """Name of the term that is minimised."""

    def __init__(self, schedule: Schedule, device: torch.device, label: str = "") -> None:
        """Begin at step 0.

        Args:
            schedule: Length and learning rate.
            device: Where it computes.
            label: Begins every line of `run`.
        """
        self.schedule, self.device, self.label = schedule, device, label
        self.optimizer: torch.optim.Optimizer
        self.step = 0
        self.spent = 0.0
        if device.type == "cuda":
            # Products of 19-bit floats: as good here, and a multiple as fast.
            torch.set_float32_matmul_precision("high")

    @abstractmethod
    def advance(self) -> dict[str, Tensor]:
        """Take one step; returns its terms without gradient, `objective` among them."""

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """Return what a checkpoint holds besides the optimiser, the steps and the time."""

    @abstractmethod
    def restore(self, state: dict[str, Any]) -> None:
        """Take what `state` returned."""

    @property
    def progress(self) -> float:
        """How much of the schedule is done, 0..1."""
        return self.schedule.progress(self.step, self.spent)

    def rate(self) -> float:
        """Learning rate of the next step."""
        return self.schedule.rate(self.progress)

    def descend(self, loss: Tensor, weights: list[nn.Parameter], clip: float) -> Tensor:
        """Take a step of the optimiser and count it; returns the gradient's norm before it was clipped.

        Args:
            loss: What is minimised.
            weights: Those whose gradient is clipped; the ones without a gradient are passed over.
            clip: Largest norm.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate()
        self.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        norm = nn.utils.clip_grad_norm_([weight for weight in weights if weight.grad is not None], clip)
        self.optimizer.step()
        self.step += 1
        return norm

    def run(self, log_every: int = 50) -> Iterator[str]:
        """Train to the end of the schedule, yielding a line now and then.

        Raises:
            FloatingPointError: The loss is not finite.
        """
        begun, before = time.monotonic(), self.spent
        sums: dict[str, Tensor] = {}
        count = 0
        while self.progress < 1:
            terms = self.advance()
            sums = {name: sums.get(name, 0.0) + value for name, value in terms.items()}
            count += 1
            if self.step % log_every == 0:
                # Reading a number waits for the device: only here.
                means = {name: float(value) / count for name, value in sums.items()}
                if not math.isfinite(means[self.objective]):
                    raise FloatingPointError(f"the loss is not finite at step {self.step}; lower the learning rate")
                self.spent, sums, count = before + time.monotonic() - begun, {}, 0
                figures = " ".join(f"{name} {value:.4f}" for name, value in means.items())
                yield f"{self.label} {self.step} {self.spent:.1f} s lr {self.rate():.2e} {figures}".strip()
            self.spent = before + time.monotonic() - begun

    def save(self, path: Path) -> None:
        """Write all that `load` needs, whole or not at all."""
        own = {"step": self.step, "spent": self.spent, "optimizer": self.optimizer.state_dict()}
        with atomic_path(path) as temporary:
            torch.save({**self.state(), **own}, temporary)

    def load(self, path: Path) -> None:
        """Go on from a checkpoint of the same sizes."""
        state = torch.load(path, map_location=self.device, weights_only=True)
        self.restore(state)
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.spent = state["step"], state["spent"]


def add_options(parser: argparse.ArgumentParser, *, steps: int | None, batch: int, seed: int, precision: str) -> None:
    """Add the options of a scheduled training, with these defaults.

    Args:
        parser: Gets the options.
        steps: Length of the schedule; None: the recipe's own.
        batch: Mixtures a step.
        seed: Root of all randomness.
        precision: "fp32" or "bf16"; empty: bf16 on a GPU.
    """
    lasts = "" if steps else " (default: the kind's)"
    parser.add_argument("--steps", type=int, default=steps, help=f"length of the schedule{lasts}")
    parser.add_argument("--seconds", type=float, default=0.0, help="its length by the clock instead")
    parser.add_argument("--batch", type=int, default=batch)
    parser.add_argument(
        "--precision", default=precision, choices=("fp32", "bf16", *(() if precision else ("",))),
        help="" if precision else "default: bf16 on a GPU",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, default=seed)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--workers", type=int, default=2, help="processes that code and decode")
    parser.add_argument("--threads", type=int, default=2, help="of the training on a CPU")
    parser.add_argument("--save-every-s", type=float, default=60.0)


def train_to_end(training: ScheduledTraining, checkpoint: Path, save_every_s: float) -> bool:
    """Train, printing lines and writing the checkpoint now and then; returns whether the schedule ended.

    A signal to stop is seen at the next line: the checkpoint is written, and the same call goes on from it.

    Args:
        training: Where to begin.
        checkpoint: File to write.
        save_every_s: Seconds between two checkpoints.
    """
    stop, saved = stop_on_signal(), time.monotonic()
    for line in training.run():
        print(line, flush=True)
        if time.monotonic() - saved > save_every_s or stop.is_set():
            training.save(checkpoint)
            saved = time.monotonic()
        if stop.is_set():
            return False
    training.save(checkpoint)
    return True


def command(args: argparse.Namespace, work: Callable[[argparse.Namespace], None]) -> int:
    """Do a recipe's work in the folder `args.out`; returns the exit status: 0, or 2 after a one-line error."""
    torch.set_num_threads(args.threads)
    try:
        args.out.mkdir(parents=True, exist_ok=True)
        work(args)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0
