"""The training loop of the tiny Whisper: resumable, with averaged weights."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event

import torch

from flowse.files import atomic_path
from pipelines.pretrain.whisper.batches import Batch, Mixer
from pipelines.pretrain.whisper.corpus import Corpus
from pipelines.pretrain.whisper.model import Dims, Losses, Student


@dataclass(frozen=True)
class Recipe:
    """The settings that decide the trained weights.

    Attributes:
        dims: Size of the model.
        steps: Length of the schedule, in steps.
        frame_budget: Number of mel frames (10 ms) in a batch.
        learning_rate: Peak of the learning rate: it rises over `warmup` steps, then falls by a cosine to 2 % of the
            peak.
        warmup: Length of the rise, in steps.
        encoder_until: Share of the schedule after which the lower layers of the encoder are frozen. They converge long
            before the decoder does, and frozen they save 40 % of a step.
        ema: Decay of the averaged weights at the end; it starts lower.
        seed: Root seed of all draws.
    """

    dims: Dims = field(default_factory=Dims)
    steps: int = 23_500
    frame_budget: int = 9_600
    learning_rate: float = 2e-3
    warmup: int = 300
    encoder_until: float = 0.5
    ema: float = 0.998
    seed: int = 0

    def learning_rate_at(self, step: int) -> float:
        """Return the learning rate of a step."""
        warm = min(1.0, (step + 1) / self.warmup)
        return self.learning_rate * warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / self.steps)))


def prefetch(mixer: Mixer, first: int, last: int) -> Iterator[Batch]:
    """Yield the batches of steps `first` to `last - 1`, and draw two of them in advance."""
    with ThreadPoolExecutor(1) as pool:
        waiting = [pool.submit(mixer.batch, step) for step in range(first, min(first + 2, last))]
        for step in range(first, last):
            batch = waiting.pop(0).result()
            if step + 2 < last:
                waiting.append(pool.submit(mixer.batch, step + 2))
            yield batch


class Trainer:
    """A training run in a folder; a new `Trainer` with the same arguments can resume where the last one stopped."""

    def __init__(self, recipe: Recipe, corpus: Corpus, folder: Path) -> None:
        self.recipe, self.folder = recipe, folder
        torch.manual_seed(recipe.seed)
        self.student = Student(recipe.dims, corpus.vocabulary, len(corpus.symbols))
        self.average = deepcopy(self.student).requires_grad_(False)
        decayed = [p for p in self.student.parameters() if p.dim() > 1]
        plain = [p for p in self.student.parameters() if p.dim() <= 1]
        self.optimiser = torch.optim.AdamW(
            [{"params": decayed, "weight_decay": 0.05}, {"params": plain, "weight_decay": 0.0}],
            lr=recipe.learning_rate,
            betas=(0.9, 0.98),
            eps=1e-7,
        )
        self.mixer = Mixer(corpus, recipe.seed, recipe.steps, recipe.frame_budget)
        self.step = 0
        self.stop_requested = Event()
        self.checkpoint = folder / "checkpoint.pt"

    def resume(self) -> bool:
        """Load the checkpoint if there is one; return whether there was."""
        if not self.checkpoint.exists():
            return False
        state = torch.load(self.checkpoint, weights_only=True)
        self.student.load_state_dict(state["student"])
        self.average.load_state_dict(state["average"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.step = state["step"]
        return True

    def save(self) -> None:
        """Write the checkpoint atomically."""
        state = {
            "student": self.student.state_dict(),
            "average": self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "step": self.step,
        }
        with atomic_path(self.checkpoint) as temporary:
            torch.save(state, temporary)

    def update(self, batch: Batch) -> Losses:
        """Take an optimiser step on a batch and return its losses."""
        progress = self.step / self.recipe.steps
        self.student.train_lower_encoder(progress < self.recipe.encoder_until)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            losses: Losses = self.student(batch)
        # CTC dominates until the encoder recognises phonemes; then the decoder's loss dominates.
        ctc = 1.0 if progress < 0.3 else 0.3
        total = losses.text + ctc * losses.ctc + 0.3 * losses.language + 0.3 * losses.attention
        total.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.student.parameters(), 1.0)
        for group in self.optimiser.param_groups:
            group["lr"] = self.recipe.learning_rate_at(self.step)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        self.step += 1
        decay = min(self.recipe.ema, self.step / (self.step + 20))
        with torch.no_grad():
            for averaged, current in zip(self.average.parameters(), self.student.parameters(), strict=True):
                averaged.lerp_(current, 1 - decay)
        return losses

    def run(
        self,
        until: int | None = None,
        save_every_s: float = 180.0,
        report: Callable[[int, dict[str, float]], None] | None = None,
        report_every: int = 25,
    ) -> None:
        """Train to the end of the schedule, to step `until`, or until `stop_requested` is set.

        Args:
            until: Step at which to stop; None: the end of the schedule.
            save_every_s: Seconds between checkpoints; another checkpoint is written at the end.
            report: Called with the step and its figures; None: no reports.
            report_every: Steps between reports.
        """
        last = min(until or self.recipe.steps, self.recipe.steps)
        saved = began = time.monotonic()
        first, sums, count = self.step, dict.fromkeys(("text", "ctc", "language", "attention"), 0.0), 0
        self.student.train()
        for batch in prefetch(self.mixer, self.step, last):
            losses = self.update(batch)
            for name in sums:
                sums[name] += getattr(losses, name).item()
            count += 1
            if report and self.step % report_every == 0:
                speed = (self.step - first) / (time.monotonic() - began)
                figures = {f"loss/{name}": total / count for name, total in sums.items()}
                report(self.step, figures | {"steps_per_s": speed, "left_s": (last - self.step) / speed})
                sums, count = dict.fromkeys(sums, 0.0), 0
            if self.stop_requested.is_set():
                break
            if time.monotonic() - saved > save_every_s:
                self.save()
                saved = time.monotonic()
        self.save()
