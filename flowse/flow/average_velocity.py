"""The average velocity of a flow between two times: jumps, the identity that it obeys, and targets to distil it.

``u(x_t, t, r)`` with ``t <= r <= 1`` is the displacement of the flow's solution from ``x_t`` to time ``r``, divided by
``r - t``; ``u(x_t, t, t)`` is the velocity itself. One evaluation then is a step of any length. Sources: interval
splitting (SplitMeanFlow, Guo et al., 2025), composition with a teacher (COSE; ZipVoice-Distill, Zhu et al., 2025;
shortcut models, Frans et al., 2024). Nothing here takes a derivative of a network.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from flowse.flow.config import DistilConfig
from flowse.flow.loss import VelocityModel, frame_sum
from flowse.flow.path import PathPoint
from flowse.flow.solver import Solution, time_grid

AverageVelocity = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Any function that estimates ``u`` from ``(x_t, t, r)``; `t` and `r` are ``[B]``."""

FLOW, TEACHER, SELF = 0, 1, 2
"""Kinds of target: the velocity of the path, the frozen teacher's legs, or the composition of the model's own jumps."""


def jump(
    u: AverageVelocity, x_t: Float[Tensor, "B T F"], t: Float[Tensor, " B"], r: Float[Tensor, " B"]
) -> Float[Tensor, "B T F"]:
    """Return the state at time `r`, ``J(x_t, t, r) = x_t + (r - t) u(x_t, t, r)``; it is `x_t` where ``r = t``."""
    return x_t + (r - t)[:, None, None] * u(x_t, t, r)


def composed(
    u: AverageVelocity,
    x_t: Float[Tensor, "B T F"],
    t: Float[Tensor, " B"],
    r: Float[Tensor, " B"],
    split: Float[Tensor, " B"],
) -> Float[Tensor, "B T F"]:
    """Return the average velocity over two jumps, ``L u(x_t, t, s) + (1 - L) u(x_s, s, r)``.

    With ``s = t + L (r - t)`` and ``x_s = J(x_t, t, s)`` it equals ``u(x_t, t, r)`` exactly for the true average
    velocity, and needs no division.

    Args:
        u: The average velocity.
        x_t: State at time `t`.
        t: Beginning of the interval.
        r: End of the interval.
        split: ``L``, where the interval is split, 0..1.
    """
    s = t + split * (r - t)
    first = u(x_t, t, s)
    x_s = x_t + (s - t)[:, None, None] * first
    weight = split[:, None, None]
    return weight * first + (1 - weight) * u(x_s, s, r)


def heun_average(
    velocity: VelocityModel,
    x_t: Float[Tensor, "B T F"],
    t: Float[Tensor, " B"],
    r: Float[Tensor, " B"],
    split: Float[Tensor, " B"],
    steps: int = 1,
) -> Float[Tensor, "B T F"]:
    """Return the average velocity ``(x_r - x_t) / (r - t)`` over Heun steps of a plain flow, in float32 or finer.

    A composition of jumps is only as good as its legs, hence second order: four evaluations for each of `steps`.

    Args:
        velocity: The plain flow.
        x_t: State at time `t`.
        t: Beginning of the interval.
        r: End of the interval, after `t`.
        split: ``L``; the first half of the steps ends at ``t + L (r - t)``.
        steps: Equal steps in each of the two parts.
    """
    s = t + split * (r - t)
    x = x_t
    times = [start + (end - start) * (index / steps) for start, end in ((t, s), (s, r)) for index in range(steps)]
    for start, end in itertools.pairwise([*times, r]):
        dt = (end - start)[:, None, None]
        slope = velocity(x, start)
        x = x + dt / 2 * (slope + velocity(x + dt * slope, end))
    finest = torch.promote_types(x_t.dtype, torch.float32)
    return (x - x_t).to(finest) / (r - t).to(finest)[:, None, None]


@dataclass(frozen=True)
class Intervals:
    """The interval of each utterance of a training batch, and where its target comes from.

    Attributes:
        kind: `FLOW`, `TEACHER` or `SELF`.
        t: Beginning.
        r: End; equals `t` for `FLOW`.
        split: Where the interval is split, 0..1.
    """

    kind: Int[Tensor, " B"]
    t: Float[Tensor, " B"]
    r: Float[Tensor, " B"]
    split: Float[Tensor, " B"]

    @classmethod
    def of(
        cls,
        t: Float[Tensor, " B"],
        uniform: Float[Tensor, "B 3"],
        config: DistilConfig,
        progress: float,
        *,
        teacher_alone: bool = False,
    ) -> Intervals:
        """Choose the intervals that follow from random draws.

        The length is drawn first and the beginning then among those that leave room for it, so that long jumps from
        the source, which sampling takes, are as frequent as short ones.

        Args:
            t: Drawn flow times, 0..1; an interval of length ``d`` begins at ``(1 - d) t``.
            uniform: Uniform draws, 0..1: of the kind, the length and the split.
            config: Shares and lengths.
            progress: Fraction of the training that is done, 0..1.
            teacher_alone: Give all utterances teacher targets, which do not change in training: for validation.
        """
        early = progress < config.early
        of_kind, of_length, split = uniform.unbind(-1)
        own = torch.full_like(of_kind, TEACHER if early else SELF, dtype=torch.long)
        kind = own.masked_fill(of_kind < config.flow_share + config.teacher_share, TEACHER)
        kind = kind.masked_fill(of_kind < config.flow_share, FLOW)
        if teacher_alone:
            kind = torch.full_like(kind, TEACHER)
        limit = config.early_span if early else 1.0
        limits = torch.full_like(t, limit).masked_fill(kind == TEACHER, min(limit, config.teacher_span))
        length = config.shortest + of_length * (limits - config.shortest)
        length = length.masked_fill(kind == FLOW, 0.0)
        begin = (1 - length) * t
        return cls(kind, begin, (begin + length).clamp_max(1.0), split)


VelocityOf = Callable[[Tensor], VelocityModel]
"""The teacher for some rows of a batch: ``rows -> velocity``, with these rows' conditions bound."""

AverageVelocityOf = Callable[[Tensor], AverageVelocity]
"""A model for some rows of a batch: ``rows -> average velocity``, with these rows' conditions bound."""


@torch.no_grad()
def targets(
    path: PathPoint, intervals: Intervals, teacher: VelocityOf, own: AverageVelocityOf, teacher_steps: int = 1
) -> Float[Tensor, "B T F"]:
    """Return the target of ``u(x_t, t, r)`` for each utterance, by its kind, without gradient.

    Args:
        path: Points of the path at the intervals' beginnings.
        intervals: The intervals.
        teacher: The frozen flow, with guidance.
        own: The averaged model without dropout.
        teacher_steps: Heun steps in each part of a teacher's interval.
    """
    target = path.u_t.float()

    def fill(kind: int, average: Callable[[Tensor], Callable[..., Tensor]]) -> None:
        rows = (intervals.kind == kind).nonzero().squeeze(1)
        if len(rows):
            chosen = (path.x_t, intervals.t, intervals.r, intervals.split)
            target[rows] = average(rows)(*(values[rows] for values in chosen)).to(target)

    fill(TEACHER, lambda rows: functools.partial(heun_average, teacher(rows), steps=teacher_steps))
    fill(SELF, lambda rows: functools.partial(composed, own(rows)))
    return target


def average_velocity_loss(
    u: Float[Tensor, "B T F"],
    target: Float[Tensor, "B T F"],
    mask: Bool[Tensor, "B T"] | None,
    config: DistilConfig,
) -> dict[str, Float[Tensor, " B"]]:
    """Compare estimated average velocities with their targets.

    An utterance's mean squared error ``e`` is weighted by ``(e + c)^-p``, whose gradient is stopped, so that the long
    intervals, whose errors are largest, do not drown the others (MeanFlow, Geng et al., 2025).

    Args:
        u: Estimates.
        target: Targets.
        mask: True on real frames; None: all are real.
        config: ``p`` and ``c``.

    Returns:
        Sums over each utterance's real frames: "error" (mean square a frame), and "loss", which is weighted.
    """
    error = frame_sum((u.float() - target.float()).square(), mask)
    frames = u.shape[1] if mask is None else mask.sum(dim=1).clamp_min(1)
    weight = (error.detach() / frames + config.offset) ** -config.power
    return {"error": error, "loss": weight * error}


@torch.no_grad()
def sample_by_jumps(u: AverageVelocity, x_0: Float[Tensor, "B T F"], steps: int, grid: str = "uniform") -> Solution:
    """Jump from the source (t = 0) to speech (t = 1) in `steps` evaluations.

    Args:
        u: The network, with its conditions bound.
        x_0: State at t = 0.
        steps: Jumps, each to the next time of the grid.
        grid: Spacing, see `flowse.flow.solver.time_grid`.

    Raises:
        ValueError: No step, or an unknown grid.
    """
    x = x_0
    for start, end in itertools.pairwise(time_grid(steps, grid)):
        t = x.new_full((x.shape[0],), start)
        x = jump(u, x, t, torch.full_like(t, end))
    return Solution(x, steps)
