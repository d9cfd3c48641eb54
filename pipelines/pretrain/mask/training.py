"""Training of the mask: what a step hears, what it is told, and the averaged weights."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flowse.model.spec import ModelSpec
from flowse.model.system import System, build
from flowse.seeding import derive_seed
from pipelines.pretrain.mask.losses import MaskLoss, MaskLossConfig
from pipelines.pretrain.mask.mixing import MixConfig, Mixer
from pipelines.pretrain.mask.pools import Pools
from pipelines.pretrain.scheduled import Schedule, ScheduledTraining

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


class MaskTraining(ScheduledTraining):
    """State of a training: network, averages, optimiser, steps taken and time spent."""

    objective = "total"

    def __init__(self, config: MaskTrainingConfig, pools: Pools) -> None:
        """Start from fresh weights; `load` goes on from a checkpoint."""
        self.config = config
        device = pools.device
        c = config
        schedule = Schedule(steps=c.steps, seconds=c.seconds, lr=c.lr, warmup=c.warmup, final_fraction=0.01)
        super().__init__(schedule, device)
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

    def advance(self) -> dict[str, Tensor]:
        """Take one step; returns its losses."""
        noisy, target = self.mixer.batch(self.step, self.config.batch)
        terms = self.loss(noisy, target, self.log_gain(noisy))
        self.descend(terms["total"], list(self.system.parameters()), self.config.clip)
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

    def state(self) -> dict[str, Any]:
        """Return weights and averaged weights."""
        return {"system": self.system.state_dict(), "average": self.average.state_dict()}

    def restore(self, state: dict[str, Any]) -> None:
        """Take weights and averaged weights."""
        for name in ("system", "average"):
            getattr(self, name).load_state_dict(state[name])

    def begin_from(self, path: Path) -> None:
        """Begin a new schedule at the averaged weights of another training's checkpoint."""
        weights = torch.load(path, map_location=self.mixer.pools.device, weights_only=True)["average"]
        self.system.load_state_dict(weights)
        self.average.load_state_dict(weights)


def averaged(path: Path, spec: ModelSpec = SPEC) -> System:
    """Load the averaged weights of a checkpoint."""
    system = build(spec)
    system.load_state_dict(torch.load(path, map_location="cpu", weights_only=True)["average"])
    return system.eval()
