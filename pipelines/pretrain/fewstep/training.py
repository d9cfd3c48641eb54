"""Training of a flow, of its distillation, or of a refinement: by steps or by the clock, averaged, resumable."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from flowse.audio.mel import LogMel
from flowse.audio.mel_config import DB_PER_NEPER
from flowse.files import atomic_path
from flowse.flow.config import DistilConfig, FlowConfig, LossConfig
from flowse.flow.path import Draws
from flowse.model.dit import DiT
from flowse.model.spec import DiTConfig, ModelSpec
from flowse.model.system import build
from flowse.seeding import derive_seed
from flowse.training.config import OptimConfig
from flowse.training.optim import MovingAverage, adamw
from pipelines.pretrain.mask.mixing import MixConfig, Mixer
from pipelines.pretrain.mask.pools import Pools

MEDIUM = DiTConfig(dim=512, depth=10, heads=8, ff_mult=2, qk_norm=True)
"""39.3 M parameters; MeanFlowSE needed about as many to reach with one evaluation what FlowSE reaches with 64."""

KINDS = ("flow", "distil", "data")

REMEMBERED = 8
"""Batches of mixtures among which a step's are chosen, so that neighbouring steps do not hear the same ones."""

OPTIM = OptimConfig(lr=8e-4, final_fraction=0.02, clip=1.0, ema_decay=0.998, beta_2=0.98)
DISTIL = DistilConfig(flow_share=0.5, teacher_share=0.25, teacher_steps=2, early=0.0, early_span=1.0)
"""The teacher gives targets of any length from the start: in a short training, short ones first take too long."""


def spec_of(kind: str, model: DiTConfig, predictor: ModelSpec, sigma: float = 0.0, range_db: float = 0.0) -> ModelSpec:
    """Return the spec of a kind of model.

    Args:
        kind: One of `KINDS`.
        model: Size of the network.
        predictor: Spec of the mask that "data" refines; mel and its statistics are taken from there.
        sigma: Deviation of the noise around the mask's estimate, of "data".
        range_db: The mask's estimate is raised to so many dB below its loudest bin, of "data".

    Raises:
        ValueError: There is no such kind.
    """
    if kind not in KINDS:
        raise ValueError(f"kind={kind!r} must be one of {', '.join(KINDS)}")
    flow = FlowConfig()
    if kind == "data":
        flow = FlowConfig(source="predicted", sigma=sigma, predicts="data", range_db=range_db)
    return dataclasses.replace(predictor, objective="flow", model=model, flow=flow, jumps=kind == "distil")


@dataclass(frozen=True, kw_only=True)
class FewStepConfig:
    """How a model is trained.

    Attributes:
        kind: One of `KINDS`.
        model: Size of the network.
        mix: What it hears.
        loss: Weights of the terms, of "flow" and "data".
        distil: Targets and intervals, of "distil".
        steps: Length of the schedule.
        seconds: Length of the schedule by the clock instead; 0: by steps. The result then depends on the machine.
        batch: Mixtures a step.
        again: Steps for each new batch of mixtures, with other noise and times: mixing costs as much as a step.
        optim: Peak learning rate, weight decay, clipping and the average's decay; its schedule is not used.
        warmup: Share of the schedule until the peak; then a cosine falls to `OptimConfig.final_fraction`.
        time_mean: Mean of the logit of the flow's times, whose deviation is `time_std`.
        time_std: Deviation of the logit; 0: times are drawn evenly from 0..1.
        grid_share: Share of the intervals of "distil" that are those which sampling in 1, 2 or 4 steps takes.
        range_db: The target's mel is raised to so many dB below its loudest bin, and so is the mask's estimate: the
            depth of a silence is inaudible.
        precision: "fp32" or "bf16": of the networks' forward pass.
        compile: Compile the network's blocks.
        seed: Root of all randomness.
    """

    kind: str = "flow"
    model: DiTConfig = MEDIUM
    mix: MixConfig = field(default_factory=MixConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    distil: DistilConfig = DISTIL
    steps: int = 20_000
    seconds: float = 0.0
    batch: int = 128
    again: int = 3
    optim: OptimConfig = OPTIM
    warmup: float = 0.04
    time_mean: float = 0.0
    time_std: float = 0.0
    grid_share: float = 0.5
    range_db: float = 60.0
    precision: str = "bf16"
    compile: bool = False
    seed: int = 17

    @classmethod
    def of(cls, kind: str, **changes: object) -> FewStepConfig:
        """Return the settings that suit a kind of model, with some replaced.

        Raises:
            ValueError: There is no such kind.
        """
        defaults: dict[str, dict[str, object]] = {
            "flow": {},
            # A distillation starts from good weights: a smaller rate, and an average that follows within its few steps.
            "distil": {"optim": dataclasses.replace(OPTIM, lr=2e-4, ema_decay=0.99), "steps": 10_000},
            "data": {
                "loss": LossConfig(mel_l1=1.0), "time_mean": -0.8, "time_std": 0.8, "steps": 10_000,
                "optim": dataclasses.replace(OPTIM, lr=5e-4, ema_decay=0.995),
            },
        }  # fmt: skip
        if kind not in defaults:
            raise ValueError(f"kind={kind!r} must be one of {', '.join(KINDS)}")
        return cls(**{"kind": kind, **defaults[kind], **changes})  # type: ignore[arg-type]


class FewStepTraining:
    """State of a training: network, averages, optimiser, steps taken and time spent."""

    def __init__(
        self,
        config: FewStepConfig,
        pools: Pools,
        predictor: tuple[ModelSpec, Mapping[str, Tensor]],
        flow: Mapping[str, Tensor] | None = None,
        sigma: float = 0.0,
    ) -> None:
        """Start from fresh weights, or from a flow's; `load` goes on from a checkpoint.

        Args:
            config: How to train.
            pools: Speech, noise and rooms.
            predictor: Spec and weights of the mask whose mel statistics are used, and which "data" refines.
            flow: Weights of a trained flow of the same size: the teacher and the start of "distil", and the start of
                "data" as far as they fit.
            sigma: Deviation of the noise around the mask's estimate, of "data".

        Raises:
            ValueError: "distil" has no flow.
        """
        self.config = config
        self.device = pools.device
        if self.device.type == "cuda":
            # Products of 19-bit floats: as good here, and a multiple as fast.
            torch.set_float32_matmul_precision("high")
        torch.manual_seed(derive_seed(config.seed, "pretrain/fewstep/weights", config.kind))
        mask_spec, mask = predictor
        self.spec = spec_of(config.kind, config.model, mask_spec, sigma, config.range_db)
        self.system = build(self.spec)
        self._start(mask, flow)
        self.system.to(self.device).train()
        self.log_mel = LogMel(self.spec.mel).to(self.device)
        self.mixer = Mixer(pools, config.mix, config.seed)
        self.optimizer = adamw(self.system, config.optim)
        self.average = MovingAverage(self.system, config.optim.ema_decay)
        self.system.averaged = self.average.applied
        if config.compile:
            assert isinstance(self.system.network, DiT)
            for block in self.system.network.blocks:
                block.compile()
            if self.system.distillation is not None:
                for block in self.system.distillation.teacher.blocks:
                    block.compile()
        self.step = 0
        self.spent = 0.0
        self._mixtures: dict[int, tuple[Tensor, ...]] = {}

    def _start(self, mask: Mapping[str, Tensor], flow: Mapping[str, Tensor] | None) -> None:
        """Put weights that exist in place, and freeze those that are not trained."""
        kind, system = self.config.kind, self.system
        if kind == "distil":
            if flow is None:
                raise ValueError("kind='distil' needs the weights of a flow")
            teacher = build(dataclasses.replace(self.spec, jumps=False))
            teacher.load_state_dict(flow)
            system.load_state_dict(flow, strict=False)
            system.distil_from(teacher.to(self.device), self.config.distil)
        if kind == "data":
            assert system.predictor is not None
            system.predictor.load_state_dict({name.removeprefix("network."): of for name, of in mask.items()})
            system.predictor.requires_grad_(False)
            if flow is not None:
                own = system.state_dict()
                fitting = {name: of for name, of in flow.items() if name in own and own[name].shape == of.shape}
                # What was a velocity becomes a change of the mask's estimate, at first none.
                kept = {name: of for name, of in fitting.items() if not name.startswith("network.final.out.")}
                width = flow["network.input.weight"].shape[1]
                kept["network.input.weight"] = own["network.input.weight"].clone().zero_()
                kept["network.input.weight"][:, :width] = flow["network.input.weight"]
                system.load_state_dict(kept, strict=False)

    @property
    def progress(self) -> float:
        """How much of the schedule is done, 0..1."""
        c = self.config
        return min(1.0, self.spent / c.seconds if c.seconds else self.step / c.steps)

    def rate(self) -> float:
        """Learning rate of the next step."""
        c, done = self.config, self.progress
        if done < c.warmup:
            return c.optim.lr * max(done / c.warmup, 0.02)
        fall = (1 + math.cos(math.pi * (done - c.warmup) / (1 - c.warmup))) / 2
        return c.optim.lr * (c.optim.final_fraction + (1 - c.optim.final_fraction) * fall)

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
                if not math.isfinite(means["loss"]):
                    raise FloatingPointError(f"the loss is not finite at step {self.step}; lower the learning rate")
                self.spent, sums, count = before + time.monotonic() - begun, {}, 0
                yield f"{self.config.kind} {self.step} {self.spent:.1f} s lr {self.rate():.2e} " + " ".join(
                    f"{name} {value:.4f}" for name, value in means.items()
                )
            self.spent = before + time.monotonic() - begun

    def advance(self) -> dict[str, Tensor]:
        """Take one step; returns its losses, means a frame, and the gradient's norm."""
        terms = self.losses(*self._chosen())
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate()
        self.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(terms["loss"])
        trained = [weight for weight in self.system.parameters() if weight.grad is not None]
        terms["norm"] = nn.utils.clip_grad_norm_(trained, self.config.optim.clip)
        self.optimizer.step()
        self.average.update()
        self.step += 1
        return {name: value.detach() for name, value in terms.items()}

    def losses(
        self,
        noisy: Float[Tensor, "B T F"],
        clean: Float[Tensor, "B T F"],
        predicted: Float[Tensor, "B T F"] | None = None,
    ) -> dict[str, Tensor]:
        """Return the losses of a batch of mels at this step's draws, means a frame."""
        draws = self._draws(noisy)
        with self.autocast():
            terms = self.system(noisy, clean, None, None, draws, self.config.loss, self.progress, predicted)
        frames = noisy.shape[0] * noisy.shape[1]
        return {name: value.sum() / frames for name, value in terms.items()}

    def autocast(self) -> contextlib.AbstractContextManager[object]:
        """Compute in the forward pass's precision; no weight is kept in bf16, as averages take turns with weights."""
        on = self.config.precision == "bf16"
        return torch.autocast(self.device.type, torch.bfloat16, enabled=on, cache_enabled=False)

    def mels(self, mixer: Mixer, step: int, size: int) -> tuple[Float[Tensor, "B T F"], Float[Tensor, "B T F"]]:
        """Return log-mels of mixtures and of their targets."""
        noisy, target = mixer.batch(step, size)
        wanted = self.log_mel(target)
        if self.config.range_db:
            least = wanted.amax(dim=(1, 2), keepdim=True) - self.config.range_db / DB_PER_NEPER
            wanted = torch.maximum(wanted, least)
        return self.log_mel(noisy), wanted

    def _chosen(self) -> list[Tensor]:
        """Return noisy, clean and, if there is a predictor, estimated mels of this step, out of the last batches."""
        c, number = self.config, self.step // self.config.again
        wanted = range(max(0, number - REMEMBERED + 1), number + 1)
        for old in set(self._mixtures) - set(wanted):
            del self._mixtures[old]
        for batch in wanted:
            if batch not in self._mixtures:
                made = self.mels(self.mixer, batch, c.batch)
                self._mixtures[batch] = made if self.system.predictor is None else (*made, self._predicted(made[0]))
        rng = torch.Generator().manual_seed(derive_seed(c.seed, "pretrain/fewstep/chosen", self.step))
        which = torch.randint(len(wanted), (c.batch,), generator=rng).to(self.device)
        rows = torch.arange(c.batch, device=self.device)
        batches = [self._mixtures[batch] for batch in wanted]
        return [torch.stack(of_kind)[which, rows] for of_kind in zip(*batches, strict=True)]

    def _predicted(self, noisy: Tensor) -> Tensor:
        with self.autocast():
            return self.system.predict(noisy).float()

    def _draws(self, noisy: Tensor) -> Draws:
        """Draw times, noise and intervals on the device; kinds of target have fixed rows, so that shapes stay."""
        c, size = self.config, noisy.shape[0]
        seed = derive_seed(c.seed, "pretrain/fewstep/draws", self.step)
        rng = torch.Generator(noisy.device).manual_seed(seed)
        rows = torch.arange(size, device=noisy.device)
        # One time in each of as many equal parts of 0..1: the sum over the batch varies less.
        even = (rows + torch.rand(size, generator=rng, device=noisy.device)) / size
        t = even[torch.randperm(size, generator=rng, device=noisy.device)].clamp(1e-4, 1 - 1e-4)
        if c.time_std:
            t = torch.sigmoid(c.time_mean + c.time_std * torch.special.ndtri(t.double()).float())
        interval = torch.rand(size, 3, generator=rng, device=noisy.device)
        interval[:, 0] = (rows + 0.5) / size
        if c.kind == "distil" and c.grid_share:
            t, interval = self._sampled(t, interval, rng)
        none = torch.zeros(size, dtype=torch.bool, device=noisy.device)
        noise = torch.randn(noisy.shape, generator=rng, device=noisy.device)
        return Draws(t, noise, none, none, interval)

    def _sampled(self, t: Tensor, interval: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Give a share of the jumps the intervals that sampling in 1, 2 or 4 steps takes."""
        c, size, device = self.config, len(t), t.device
        steps = 2 ** torch.randint(3, (size,), generator=rng, device=device)
        first = (torch.rand(size, generator=rng, device=device) * steps).floor()
        length = 1 / steps
        # As `Intervals.of` reads them: the beginning is (1 - length) t.
        begin = torch.where(steps == 1, 0.0, first * length / (1 - length).clamp_min(1e-6))
        chosen = torch.rand(size, generator=rng, device=device) < c.grid_share
        chosen &= interval[:, 0] >= c.distil.flow_share
        of_length = (length - c.distil.shortest) / (1 - c.distil.shortest)
        interval[:, 1] = torch.where(chosen, of_length, interval[:, 1])
        return torch.where(chosen, begin, t), interval

    def averaged(self) -> dict[str, Tensor]:
        """Return the averaged weights, as `System.state_dict` would."""
        with self.average.applied():
            return {name: of.detach().clone() for name, of in self.system.state_dict().items()}

    def save(self, path: Path) -> None:
        """Write all that `load` needs, whole or not at all."""
        state = {
            "step": self.step,
            "spent": self.spent,
            "sigma": self.spec.flow.sigma,
            "system": self.system.state_dict(),
            "average": self.average.shadow,
            "updates": self.average.updates,
            "optimizer": self.optimizer.state_dict(),
        }
        with atomic_path(path) as temporary:
            torch.save(state, temporary)

    def load(self, path: Path) -> None:
        """Go on from a checkpoint of the same sizes."""
        state = torch.load(path, map_location=self.device, weights_only=True)
        self.system.load_state_dict(state["system"])
        for name, weight in self.average.shadow.items():
            weight.copy_(state["average"][name])
        self._mixtures = {}
        self.average.updates = state["updates"]
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.spent = state["step"], state["spent"]
