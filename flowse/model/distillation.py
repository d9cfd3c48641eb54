"""Distillation of a flow into its average velocity: the losses of a student network beside its frozen teacher."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from flowse.flow.average_velocity import FLOW, SELF, Intervals, average_velocity_loss, targets
from flowse.flow.config import DistilConfig
from flowse.flow.loss import VelocityModel
from flowse.flow.path import Draws, point
from flowse.model.conditions import Bound, Conditions
from flowse.model.dit import DiT

Averaged = Callable[[], contextlib.AbstractContextManager[None]]
"""Puts the averaged weights into the student while its block runs."""


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
            ValueError: The draws hold no intervals, or no scales of guidance where those are asked for.
        """
        if draws.interval is None:
            raise ValueError("the draws hold no intervals; draw them with flowse.flow.path.draw")
        training = student.training
        intervals = Intervals.of(draws.t, draws.interval, self.config, progress, teacher_alone=not training)
        if self.config.guidance_max:
            if draws.guidance is None:
                raise ValueError("the draws hold no scales of guidance; draw them with flowse.flow.path.draw")
            # The velocity of the path itself is that of no guidance.
            share = draws.guidance.masked_fill(intervals.kind == FLOW, 0.0)
            conditions = dataclasses.replace(conditions, guidance=share)
        path = point(x_0, x_1, intervals.t)
        with averaged() if bool((intervals.kind == SELF).any()) else contextlib.nullcontext():
            student.eval()
            target = targets(
                path,
                intervals,
                lambda rows: self._guided(conditions.rows(rows)),
                lambda rows: Bound(student, conditions.rows(rows)),
                self.config.teacher_steps,
            )
            student.train(training)
        # Autocast keeps 16-bit copies of weights, and now they are the averaged ones.
        torch.clear_autocast_cache()
        u = Bound(student, conditions)(path.x_t, intervals.t, intervals.r)
        return average_velocity_loss(u, target, conditions.mask, self.config)

    def _guided(self, conditions: Conditions) -> VelocityModel:
        teacher = self.teacher.to(conditions.y.device)
        scale: float | Tensor = self.config.guidance
        if conditions.guidance is not None:
            scale = self.config.guidance_max * conditions.guidance[:, None, None]
            conditions = dataclasses.replace(conditions, guidance=None)
        conditional = Bound(teacher, conditions)
        if isinstance(scale, float) and scale == 0:
            return conditional
        null = Bound(teacher, conditions.withheld())

        def guided(x_t: Tensor, t: Tensor) -> Tensor:
            v = conditional(x_t, t)
            return v + scale * (v - null(x_t, t))

        return guided
