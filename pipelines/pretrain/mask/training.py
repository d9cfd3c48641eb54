"""Training of the mask: a step at a time, by a number of steps or by the clock; averaged weights; resumable."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from flowse.model.spec import ModelSpec
from flowse.model.system import System, build
from flowse.seeding import derive_seed
from pipelines.pretrain.mask.losses import MaskLoss, MaskLossConfig
from pipelines.pretrain.mask.mixing import MixConfig, Mixer
from pipelines.pretrain.mask.pools import Pools

SPEC = ModelSpec(objective="regression", predictor="dual_path", mel_mean=-2.6405, mel_std=2.2829)
"""The embedded model; its mel statistics are those of its predecessor's mixtures, at the same level."""


@dataclass(frozen=True, kw_only=True)
class MaskTrainingConfig:
    """How the mask is trained.

    Attributes:
        spec: The model; a regression by a mask.
        mix: What it hears.
        loss: What it is told.
        steps: Length of the schedule.
        seconds: Length of the schedule by the clock instead; 0: by steps. The result then depends on the machine.
        batch: Mixtures a step.
        lr: Peak learning rate; reached after `warmup` of the schedule, then a cosine down to a hundredth.
        warmup: Share of the schedule.
        weight_decay: On matrices and convolutions.
        clip: Gradients are scaled down to this norm.
        ema_decay: Memory of the averaged weights, which are what is exported.
        precision: "fp32" or "bf16": of the network's forward pass; everything else is always in 32 bits.
        seed: Root of all randomness.
    """

    spec: ModelSpec = SPEC
    mix: MixConfig = field(default_factory=MixConfig)
    loss: MaskLossConfig = field(default_factory=MaskLossConfig)
    steps: int = 7500
    seconds: float = 0.0
    batch: int = 40
    lr: float = 2e-3
    warmup: float = 0.04
    weight_decay: float = 0.01
    clip: float = 1.0
    ema_decay: float = 0.998
    precision: str = "fp32"
    seed: int = 7


class MaskTraining:
    """State of a training: network, averages, optimiser, steps taken and time spent."""

    def __init__(self, config: MaskTrainingConfig, pools: Pools) -> None:
        """Start from fresh weights; `load` goes on from a checkpoint."""
        self.config = config
        device = pools.device
        if device.type == "cuda":
            # Products of 19-bit floats: as good here, and a multiple as fast.
            torch.set_float32_matmul_precision("high")
        torch.manual_seed(derive_seed(config.seed, "pretrain/mask/weights"))
        self.system = build(config.spec).to(device)
        self.average = build(config.spec).to(device).requires_grad_(False)
        self.average.load_state_dict(self.system.state_dict())
        self.loss = MaskLoss(config.loss, config.spec.mel).to(device)
        self.mixer = Mixer(pools, config.mix, config.seed)
        decayed = [weight for weight in self.system.parameters() if weight.ndim > 1]
        others = [weight for weight in self.system.parameters() if weight.ndim <= 1]
        groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, config.lr, betas=(0.9, 0.98), fused=device.type == "cuda")
        self.step = 0
        self.spent = 0.0

    @property
    def progress(self) -> float:
        """How much of the schedule is done, 0…1."""
        c = self.config
        return min(1.0, self.spent / c.seconds if c.seconds else self.step / c.steps)

    def rate(self) -> float:
        """Learning rate of the next step."""
        c, done = self.config, self.progress
        if done < c.warmup:
            return c.lr * max(done / c.warmup, 0.02)
        return c.lr * (0.01 + 0.99 * (1 + math.cos(math.pi * (done - c.warmup) / (1 - c.warmup))) / 2)

    def run(self, log_every: int = 50) -> Iterator[str]:
        """Train to the end of the schedule, yielding a line now and then."""
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
                if not math.isfinite(means["total"]):
                    raise FloatingPointError(f"the loss is not finite at step {self.step}; lower the learning rate")
                self.spent, sums, count = before + time.monotonic() - begun, {}, 0
                yield f"{self.step} {self.spent:.1f} s lr {self.rate():.2e} " + " ".join(
                    f"{name} {value:.4f}" for name, value in means.items()
                )
            self.spent = before + time.monotonic() - begun

    def advance(self) -> dict[str, Tensor]:
        """Take one step; returns its losses."""
        c = self.config
        noisy, target = self.mixer.batch(self.step, c.batch)
        terms = self.loss(noisy, target, self.log_gain(noisy))
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate()
        self.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(terms["total"])
        nn.utils.clip_grad_norm_(self.system.parameters(), c.clip)
        self.optimizer.step()
        self.step += 1
        self._average()
        return {name: value.detach() for name, value in terms.items()}

    def log_gain(self, noisy: Tensor) -> Tensor:
        """Run the network on a mixture; nepers, in 32 bits."""
        y = self.system.normalise(self.loss.log_mel(noisy))
        with torch.autocast(noisy.device.type, torch.bfloat16, enabled=self.config.precision == "bf16"):
            log_gain: Tensor = self.system.network(y)
        return log_gain.float()

    @torch.no_grad()
    def _average(self) -> None:
        decay = min(self.config.ema_decay, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(list(self.average.parameters()), list(self.system.parameters()), 1 - decay)

    def save(self, path: Path) -> None:
        """Write all that `load` needs, whole or not at all."""
        state = {
            "step": self.step,
            "spent": self.spent,
            "system": self.system.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        torch.save(state, temporary)
        temporary.replace(path)

    def begin_from(self, path: Path) -> None:
        """Begin a new schedule at the averaged weights of another training's checkpoint."""
        weights = torch.load(path, map_location=self.mixer.pools.device, weights_only=True)["average"]
        self.system.load_state_dict(weights)
        self.average.load_state_dict(weights)

    def load(self, path: Path) -> None:
        """Go on from a checkpoint of the same sizes."""
        state = torch.load(path, map_location=self.mixer.pools.device, weights_only=True)
        for name in ("system", "average", "optimizer"):
            getattr(self, name).load_state_dict(state[name])
        self.step, self.spent = state["step"], state["spent"]


def averaged(path: Path, spec: ModelSpec = SPEC) -> System:
    """Load the averaged weights of a checkpoint."""
    system = build(spec)
    system.load_state_dict(torch.load(path, map_location="cpu", weights_only=True)["average"])
    return system.eval()
