"""Training of the speaker encoder, resumable and with averaged weights, and export to ONNX."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from flowse.files import atomic_path
from flowse.seeding import derive_seed
from pipelines.pretrain.speaker.crops import Crops
from pipelines.pretrain.speaker.network import AngularMargin, Encoder, NetworkConfig


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How the encoder is trained.

    Attributes:
        network: Size of the encoder.
        steps: Length of the schedule, in steps.
        learning_rate: Peak of the learning rate, which rises over `warmup` steps and falls by a cosine.
        warmup: Length of the rise, in steps.
        weight_decay: Weight decay of AdamW.
        margin: Angular margin of the loss, in radians; it grows from 0 over the first third of the schedule.
        ema_decay: Decay of the averaged weights, which are exported.
        seed: Root seed of all draws.
    """

    network: NetworkConfig = field(default_factory=NetworkConfig)
    steps: int = 4000
    learning_rate: float = 2e-3
    warmup: int = 200
    weight_decay: float = 0.05
    margin: float = 0.3
    ema_decay: float = 0.995
    seed: int = 1


class SpeakerTraining:
    """The state of a training run."""

    def __init__(self, config: TrainingConfig, crops: Crops) -> None:
        """Start with fresh weights; `load` resumes from a checkpoint."""
        self.config, self.crops = config, crops
        torch.manual_seed(derive_seed(config.seed, "pretrain/speaker/weights"))
        self.model = Encoder(config.network)
        self.loss = AngularMargin(config.network.embedding, crops.classes)
        self.optimizer = torch.optim.AdamW(
            [*self.model.parameters(), *self.loss.parameters()], config.learning_rate, weight_decay=config.weight_decay
        )
        self.average = Encoder(config.network).requires_grad_(False)
        self.average.load_state_dict(self.model.state_dict())
        self.step = 0

    def run(self, log_every: int = 25) -> Iterator[str]:
        """Train to the end of the schedule; yield a line of progress every `log_every` steps."""
        since, total, count = time.monotonic(), 0.0, 0
        while self.step < self.config.steps:
            total, count = total + self.train_step(), count + 1
            if self.step % log_every == 0 or self.step == self.config.steps:
                rate = count / (time.monotonic() - since)
                left = (self.config.steps - self.step) / rate / 60
                loss = f"loss {total / count:.3f}"
                yield f"step {self.step}/{self.config.steps}  {loss}  {rate:.2f} steps/s  {left:.0f} min left"
                since, total, count = time.monotonic(), 0.0, 0

    def train_step(self) -> float:
        """Take an optimiser step and return its loss.

        Raises:
            FloatingPointError: The loss is not finite.
        """
        c = self.config
        done = self.step / c.steps
        self.loss.margin = c.margin * min(1.0, 3 * done)
        for group in self.optimizer.param_groups:
            rise = min(1.0, (self.step + 1) / c.warmup)
            group["lr"] = c.learning_rate * rise * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done)))
        features, speakers = self.crops.batch(self.step)
        self.model.train()
        with torch.autocast("cpu", torch.bfloat16):
            embeddings = self.model(features)
        loss = self.loss(embeddings.float(), speakers)
        if not torch.isfinite(loss):
            raise FloatingPointError(f"loss is {loss.item()} at step {self.step}; lower the learning rate")
        self.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(self.model.parameters(), 5.0)
        self.optimizer.step()
        self.step += 1
        decay = min(c.ema_decay, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for mean, now in zip(self.average.state_dict().values(), self.model.state_dict().values(), strict=True):
                mean.lerp_(now, 1 - decay) if mean.is_floating_point() else mean.copy_(now)
        return float(loss.detach())

    def save(self, path: Path) -> None:
        """Write a checkpoint atomically, with everything that `load` needs."""
        state = {
            "step": self.step,
            "model": self.model.state_dict(),
            "loss": self.loss.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        with atomic_path(path) as temporary:
            torch.save(state, temporary)

    def load(self, path: Path) -> None:
        """Resume from a checkpoint of the same sizes and speakers."""
        state = torch.load(path, map_location="cpu", weights_only=True)
        for name in ("model", "loss", "average", "optimizer"):
            getattr(self, name).load_state_dict(state[name])
        self.step = state["step"]


def export(encoder: Encoder, bands: int, path: Path) -> None:
    """Export an encoder to ONNX with WeSpeaker's names: `feats` (batch, frames, bands) and `embs` (batch, size)."""
    encoder.eval()
    with atomic_path(path) as temporary, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns that this exporter will be replaced
        torch.onnx.export(
            encoder,
            (torch.zeros(1, 200, bands),),
            str(temporary),
            input_names=["feats"],
            output_names=["embs"],
            dynamic_axes={"feats": {0: "B", 1: "T"}, "embs": {0: "B"}},
            opset_version=17,
            dynamo=False,
        )
