"""What is measured on mixtures that training does not hear: distances of mels, residuals of jumps, deviations."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from flowse.enhancer import Enhancer
from flowse.flow.average_velocity import composed
from flowse.flow.guard import Guard, GuardConfig
from flowse.flow.path import noise_of, point, source_point
from flowse.flow.sampling import Sampling
from flowse.guard_choice import choose_guard
from flowse.metrics.dnsmos import Dnsmos
from flowse.model.conditions import Bound, Conditions
from flowse.model.dit import DiT
from flowse.model.system import System
from flowse.seeding import derive_seed
from pipelines.pretrain.fewstep.training import FewStepTraining
from pipelines.pretrain.mask.mixing import Mixer
from pipelines.pretrain.mask.pools import RATE, Pools


@dataclass(frozen=True)
class Validation:
    """Mixtures of held-out recordings.

    Attributes:
        mixtures: The mixtures themselves, at the rate of the pools.
        noisy: Their log-mels.
        clean: Log-mels of their targets.
    """

    mixtures: Float[Tensor, "B N"]
    noisy: Float[Tensor, "B T F"]
    clean: Float[Tensor, "B T F"]

    @classmethod
    def of(cls, training: FewStepTraining, pools: Pools, count: int) -> Validation:
        """Mix recordings of another pack, always in the same way."""
        mixer = Mixer(pools, training.config.mix, derive_seed(training.config.seed, "pretrain/fewstep/validation"))
        return cls(mixer.batch(0, count)[0], *training.mels(mixer, 0, count))

    def deviation(self, system: System) -> float:
        """Return the root of the mean squared error of a predictor's normalised estimates: ``sigma``."""
        error = system.normalise(self.clean) - system.predict(self.noisy).float()
        return float(error.square().mean().sqrt())

    def distance(self, system: System, sampling: Sampling) -> float:
        """Return the mean distance of enhanced and clean log-mels, in nepers."""
        enhanced, _ = system.enhance(self.noisy, sampling=sampling)
        return float((enhanced - self.clean).abs().mean())

    @torch.no_grad()
    def residual(self, training: FewStepTraining) -> float:
        """Return how far jumps are from two shorter ones: mean square of the difference, relative to the jumps'.

        It is 0 for a true average velocity, see `flowse.flow.average_velocity`.
        """
        system, device = training.system, self.noisy.device
        assert isinstance(system.network, DiT)
        rng = torch.Generator().manual_seed(derive_seed(training.config.seed, "pretrain/fewstep/residual"))
        begin, length, split = torch.rand(3, len(self.noisy), generator=rng).to(device).unbind(0)
        t = (1 - length) * begin
        y, count, frames = system.normalise(self.noisy), *self.noisy.shape[:2]
        predicted = None if system.predictor is None else system.predict(self.noisy).float()
        x_0 = source_point(
            system.flow, noise_of(range(count), [frames] * count, system.n_mels).to(device), y, predicted
        )
        x_t = point(x_0, system.normalise(self.clean), t).x_t
        u = Bound(system.network, Conditions(y, None, None, predicted=predicted, predicts=system.flow.predicts))
        with training.average.applied(), training.autocast(), self._evaluating(system):
            whole = u(x_t, t, t + length)
            parts = composed(u, x_t, t, t + length, split)
        return float((whole - parts).square().mean() / whole.square().mean())

    def guard(self, enhancer: Enhancer, config: GuardConfig) -> Guard:
        """Choose the share of a refinement with the best DNSMOS overall; 0, the predictor alone, is among them."""
        noisy = list(self.mixtures.cpu().numpy())
        return choose_guard(enhancer, noisy, RATE, config, Dnsmos(torch.get_num_threads()))

    @staticmethod
    @contextlib.contextmanager
    def _evaluating(system: System):  # type: ignore[no-untyped-def]
        was = system.training
        system.eval()
        try:
            yield
        finally:
            system.train(was)
