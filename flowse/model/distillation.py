"""Distillation of a flow into its average velocity: the losses of a student network beside its frozen teacher."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from flowse.flow.average_velocity import SELF, AverageVelocity, Intervals, average_velocity_loss, targets
from flowse.flow.config import DistilConfig
from flowse.flow.loss import VelocityModel
from flowse.flow.path import Draws, point
from flowse.model.dit import DiT

Averaged = Callable[[], contextlib.AbstractContextManager[None]]
"""Puts the averaged weights into the student while its block runs."""


@dataclass(frozen=True)
class Conditions:
    """What a network is conditioned on.

    Attributes:
        y: Noisy log-mel, normalised.
        mask: True on real frames.
        text_ids: Token ids, as long as the mel; None: the network has no text encoder.
        drop_condition: True where the noisy mel is withheld.
        drop_text: True where the text is withheld.
    """

    y: Float[Tensor, "B T F"]
    mask: Bool[Tensor, "B T"]
    text_ids: Int[Tensor, "B T"] | None
    drop_condition: Bool[Tensor, " B"]
    drop_text: Bool[Tensor, " B"]

    def rows(self, rows: Int[Tensor, " R"]) -> Conditions:
        """Return those of some utterances."""
        ids = None if self.text_ids is None else self.text_ids[rows]
        return Conditions(self.y[rows], self.mask[rows], ids, self.drop_condition[rows], self.drop_text[rows])

    def withheld(self) -> Conditions:
        """Return the same with everything withheld: those of the null branch."""
        nothing = torch.ones_like(self.drop_condition)
        return Conditions(self.y, self.mask, self.text_ids, nothing, nothing)

    def bind(self, network: DiT) -> Callable[..., Tensor]:
        """Return the network as a function of ``(x_t, t)`` or ``(x_t, t, r)``, in float32."""

        def bound(x_t: Tensor, t: Tensor, r: Tensor | None = None) -> Tensor:
            out: Tensor = network(x_t, t, self.y, self.mask, self.text_ids, self.drop_condition, self.drop_text, r)
            return out.float()

        return bound


@dataclass(frozen=True)
class Distillation:
    """A frozen teacher, and how a student learns from it, from the data, and from its own average.

    It is no module, so that the teacher is in no state dict, and no optimiser sees it.

    Attributes:
        teacher: Network of the trained flow.
        config: Shares, intervals, guidance and weights.
    """

    teacher: DiT
    config: DistilConfig

    def losses(
        self,
        student: DiT,
        averaged: Averaged,
        x_0: Float[Tensor, "B T F"],
        x_1: Float[Tensor, "B T F"],
        conditions: Conditions,
        draws: Draws,
        progress: float,
    ) -> dict[str, Float[Tensor, " B"]]:
        """Return "error" and "loss" of each utterance, see `average_velocity_loss`.

        A student in evaluation mode is compared with the teacher alone, so that validations of all steps have the
        same targets.

        Args:
            student: The network that is trained; its targets see the same conditions and no dropout.
            averaged: Puts its averaged weights in place, for targets from its own jumps.
            x_0: Beginnings of the paths.
            x_1: Clean log-mel, normalised.
            conditions: What both networks are conditioned on.
            draws: Drawn times and intervals.
            progress: Fraction of the training that is done, 0..1.

        Raises:
            ValueError: The draws hold no intervals.
        """
        if draws.interval is None:
            raise ValueError("the draws hold no intervals; draw them with flowse.flow.path.draw")
        training = student.training
        intervals = Intervals.of(draws.t, draws.interval, self.config, progress, teacher_alone=not training)
        path = point(x_0, x_1, intervals.t)
        with averaged() if bool((intervals.kind == SELF).any()) else contextlib.nullcontext():
            student.eval()
            target = targets(
                path,
                intervals,
                lambda rows: self._guided(conditions.rows(rows)),
                lambda rows: _average(student, conditions.rows(rows)),
            )
            student.train(training)
        u = conditions.bind(student)(path.x_t, intervals.t, intervals.r)
        return average_velocity_loss(u, target, conditions.mask, self.config)

    def _guided(self, conditions: Conditions) -> VelocityModel:
        teacher = self.teacher.to(conditions.y.device)
        conditional = conditions.bind(teacher)
        if self.config.guidance == 0:
            return conditional
        null = conditions.withheld().bind(teacher)

        def guided(x_t: Tensor, t: Tensor) -> Tensor:
            v = conditional(x_t, t)
            return v + self.config.guidance * (v - null(x_t, t))

        return guided


def _average(student: DiT, conditions: Conditions) -> AverageVelocity:
    return conditions.bind(student)
