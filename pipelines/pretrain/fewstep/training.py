"""Training of a flow, of its distillation, of a refinement, or of a regression: their steps and averaged weights."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from flowse.audio.mel import LogMel
from flowse.audio.mel_config import DB_PER_NEPER
from flowse.flow.config import DistilConfig, FlowConfig, LossConfig
from flowse.flow.path import Draws
from flowse.model.dit import DiT
from flowse.model.spec import DiTConfig, ModelSpec
from flowse.model.system import build
from flowse.seeding import derive_seed
from flowse.training.config import OptimConfig
from flowse.training.optim import MovingAverage, adamw
from flowse.training.start import distilled_spec
from pipelines.pretrain.mask.mixing import MixConfig, Mixer
from pipelines.pretrain.mask.pools import Pools
from pipelines.pretrain.scheduled import Schedule, ScheduledTraining

MEDIUM = DiTConfig(dim=512, depth=10, heads=8, ff_mult=2, qk_norm=True)
"""39.3 M parameters; MeanFlowSE needed about as many to reach with one evaluation what FlowSE reaches with 64."""

KINDS = ("flow", "distil", "data", "regression")
"""A plain flow; the average velocity of a flow or of a refinement; the refinement of a mask's estimate; one pass."""

REMEMBERED = 8
"""Batches of mixtures among which a step's are chosen, so that neighbouring steps do not hear the same ones."""

OPTIM = OptimConfig(lr=8e-4, final_fraction=0.02, clip=1.0, ema_decay=0.998, beta_2=0.98)
DISTIL = DistilConfig(flow_share=0.5, teacher_share=0.25, teacher_steps=2, early=0.0, early_span=1.0)
"""The teacher gives targets of any length from the start: in a short training, short ones first take too long."""


def spec_of(
    kind: str,
    model: DiTConfig,
    predictor: ModelSpec,
    sigma: float = 0.0,
    range_db: float = 0.0,
    start: ModelSpec | None = None,
    distil: DistilConfig = DISTIL,
) -> ModelSpec:
    """Return the spec of a kind of model.

    Args:
        kind: One of `KINDS`.
        model: Size of the network.
        predictor: Spec of the mask that "data" refines; mel and its statistics are taken from there.
        sigma: Deviation of the noise around the mask's estimate, of "data".
        range_db: The mask's estimate is raised to so many dB below its loudest bin, of "data".
        start: Spec of the model that "distil" distils.
        distil: How it does.

    Raises:
        ValueError: There is no such kind, or "distil" has no flow.
    """
    if kind not in KINDS:
        raise ValueError(f"kind={kind!r} must be one of {', '.join(KINDS)}")
    if kind == "distil":
        if start is None:
            raise ValueError("kind='distil' needs the weights of a flow")
        return distilled_spec(start, distil)
    if kind == "regression":
        return dataclasses.replace(predictor, predictor="dit", model=model, flow=FlowConfig())
    flow = FlowConfig()
    if kind == "data":
        flow = FlowConfig(source="predicted", sigma=sigma, predicts="data", range_db=range_db)
    return dataclasses.replace(predictor, objective="flow", model=model, flow=flow)


@dataclass(frozen=True, kw_only=True)
class FewStepConfig:
    """How a model is trained.

    Attributes:
        kind: One of `KINDS`.
        model: Size of the network.
        mix: What it hears.
        loss: Weights of the terms, of all but "distil".
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

    def __post_init__(self) -> None:
        """Refuse what cannot be trained.

        Raises:
            ValueError: Naming the setting, its value and what is allowed.
        """
        for name in ("steps", "batch", "again"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        if not 0 <= self.seconds < math.inf:
            raise ValueError(f"seconds={self.seconds} must be finite, 0 or more")

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
            # Times reach the end of the path: with N(-0.8, 0.8), sampling in 8 steps or more leaves what was learned.
            "data": {
                "loss": LossConfig(mel_l1=1.0), "time_mean": -0.6, "time_std": 1.2, "steps": 10_000,
                "optim": dataclasses.replace(OPTIM, lr=5e-4, ema_decay=0.995),
            },
            "regression": {"loss": LossConfig(range_db=60.0)},
        }  # fmt: skip
        if kind not in defaults:
            raise ValueError(f"kind={kind!r} must be one of {', '.join(KINDS)}")
        return cls(**{"kind": kind, **defaults[kind], **changes})  # type: ignore[arg-type]


class FewStepTraining(ScheduledTraining):
    """State of a training: network, averages, optimiser, steps taken and time spent."""

    def __init__(
        self,
        config: FewStepConfig,
        pools: Pools,
        predictor: tuple[ModelSpec, Mapping[str, Tensor]],
        start: tuple[ModelSpec, Mapping[str, Tensor]] | None = None,
        sigma: float = 0.0,
    ) -> None:
        """Start from fresh weights, or from a flow's; `load` goes on from a checkpoint.

        Args:
            config: How to train.
            pools: Speech, noise and rooms.
            predictor: Spec and weights of the mask whose mel statistics are used, and which "data" refines.
            start: Spec and weights of a trained flow of the same size: the teacher and the start of "distil", which may
                be a refinement, too; and the start of "data" as far as they fit.
            sigma: Deviation of the noise around the mask's estimate, of "data".

        Raises:
            ValueError: "distil" has no flow.
        """
        self.config = config
        c, optim = config, config.optim
        schedule = Schedule(
            steps=c.steps, seconds=c.seconds, lr=optim.lr, warmup=c.warmup, final_fraction=optim.final_fraction
        )
        super().__init__(schedule, pools.device, config.kind)
        torch.manual_seed(derive_seed(config.seed, "pretrain/fewstep/weights", config.kind))
        mask_spec, mask = predictor
        begun = None if start is None else start[0]
        self.spec = spec_of(c.kind, c.model, mask_spec, sigma, c.range_db, begun, c.distil)
        self.system = build(self.spec)
        if c.kind == "distil":
            assert start is not None
            self._distil(*start)
        if c.kind == "data":
            self._refine(mask, None if start is None else start[1])
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
        self._mixtures: dict[int, tuple[Tensor, ...]] = {}

    def _distil(self, spec: ModelSpec, weights: Mapping[str, Tensor]) -> None:
        """Begin at a flow, which is the frozen teacher, too."""
        teacher = build(spec)
        teacher.load_state_dict(weights)
        self.system.load_state_dict(weights, strict=False)
        self.system.distil_from(teacher.to(self.device), self.config.distil)

    def _refine(self, mask: Mapping[str, Tensor], flow: Mapping[str, Tensor] | None) -> None:
        """Put the mask in place, which is not trained, and of a flow what fits."""
        system = self.system
        assert system.predictor is not None
        system.predictor.load_state_dict({name.removeprefix("network."): of for name, of in mask.items()})
        system.predictor.requires_grad_(False)
        if flow is None:
            return
        own = system.state_dict()
        fitting = {name: of for name, of in flow.items() if name in own and own[name].shape == of.shape}
        # What was a velocity becomes a change of the mask's estimate, at first none.
        kept = {name: of for name, of in fitting.items() if not name.startswith("network.final.out.")}
        width = flow["network.input.weight"].shape[1]
        kept["network.input.weight"] = own["network.input.weight"].clone().zero_()
        kept["network.input.weight"][:, :width] = flow["network.input.weight"]
        system.load_state_dict(kept, strict=False)

    def advance(self) -> dict[str, Tensor]:
        """Take one step; returns its losses, means a frame, and the gradient's norm."""
        terms = self.losses(*self._chosen())
        terms["norm"] = self.descend(terms["loss"], list(self.system.parameters()), self.config.optim.clip)
        self.average.update()
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

    def state(self) -> dict[str, Any]:
        """Return weights and averaged weights."""
        return {
            "sigma": self.spec.flow.sigma,
            "system": self.system.state_dict(),
            "average": self.average.shadow,
            "updates": self.average.updates,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take weights and averaged weights; the deviation is for whoever builds the training."""
        self.system.load_state_dict(state["system"])
        for name, weight in self.average.shadow.items():
            weight.copy_(state["average"][name])
        self.average.updates = state["updates"]
        self._mixtures = {}
