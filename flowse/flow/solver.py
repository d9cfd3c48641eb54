"""Solvers of the flow's differential equation from t = 0 to 1, with guidance; evaluations are counted."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

METHODS = ("euler", "midpoint", "heun", "dopri5")
GRIDS = ("uniform", "sway")


ConditionalVelocity = Callable[[Tensor, Tensor, Tensor | None, int], Tensor]
"""A velocity whose conditions can be withheld: ``(x_t, t, null, packed) -> v``. `null` marks the rows without
conditions (None: no row); `packed` is how often the batch stands in `x_t`, one copy behind the other."""


@dataclass(frozen=True)
class Solution:
    """Where a solver arrived.

    Attributes:
        x_1: State at t = 1.
        evaluations: Network evaluations; a batch packed with its null branch counts twice.
    """

    x_1: Float[Tensor, "B T F"]
    evaluations: int


class Guided:
    """A velocity with classifier-free guidance, ``v_cond + scale (v_cond - v_null)``; counts evaluations."""

    def __init__(self, velocity: ConditionalVelocity, scale: float) -> None:
        """Bind a velocity.

        Args:
            velocity: The network, with its conditions bound.
            scale: Strength; 0 skips the null branch, more evaluates both branches in one batch.
        """
        self.velocity = velocity
        self.scale = scale
        self.evaluations = 0

    def __call__(self, x_t: Float[Tensor, "B T F"], t: float) -> Float[Tensor, "B T F"]:
        """Evaluate at one time for the whole batch."""
        batch = x_t.shape[0]
        if self.scale == 0:
            self.evaluations += 1
            return self.velocity(x_t, x_t.new_full((batch,), t), None, 1)
        self.evaluations += 2
        null: Bool[Tensor, " B2"] = torch.arange(2 * batch, device=x_t.device) >= batch
        both = self.velocity(torch.cat((x_t, x_t)), x_t.new_full((2 * batch,), t), null, 2)
        conditional, unconditional = both.chunk(2)
        return conditional + self.scale * (conditional - unconditional)


def time_grid(steps: int, grid: str = "uniform", sway: float = -1.0) -> list[float]:
    """Return ``steps + 1`` times from 0 to 1.

    Args:
        steps: Solver steps.
        grid: "uniform", or "sway": ``t + sway (cos(pi t / 2) - 1 + t)``, which for -1 spends more steps near
            t = 0.
        sway: Strength of "sway", -1..2/(pi - 2).
    """
    if steps < 1:
        raise ValueError(f"steps={steps} must be at least 1")
    if grid not in GRIDS:
        raise ValueError(f"grid={grid!r} must be one of {', '.join(GRIDS)}")
    times = [index / steps for index in range(steps + 1)]
    if grid == "sway":
        times = [t + sway * (math.cos(math.pi / 2 * t) - 1 + t) for t in times]
    return times


_Velocity = Callable[[Tensor, float], Tensor]


def _euler(v: _Velocity, x: Tensor, t: float, dt: float) -> Tensor:
    return x + dt * v(x, t)


def _midpoint(v: _Velocity, x: Tensor, t: float, dt: float) -> Tensor:
    return x + dt * v(x + dt / 2 * v(x, t), t + dt / 2)


def _heun(v: _Velocity, x: Tensor, t: float, dt: float) -> Tensor:
    first = v(x, t)
    return x + dt / 2 * (first + v(x + dt * first, t + dt))


_STEP = {"euler": _euler, "midpoint": _midpoint, "heun": _heun}


def _adaptive(v: _Velocity, x_0: Tensor, tolerance: float) -> Tensor:
    try:
        from torchdiffeq import odeint  # type: ignore[import-untyped,unused-ignore]
    except ImportError as error:
        raise ImportError("method='dopri5' needs the package torchdiffeq: pip install torchdiffeq") from error
    times = torch.tensor([0.0, 1.0], device=x_0.device)
    path: Tensor = odeint(lambda t, x: v(x, float(t)), x_0, times, method="dopri5", rtol=tolerance, atol=tolerance)
    return path[-1]


@torch.no_grad()
def sample(
    velocity: ConditionalVelocity,
    x_0: Float[Tensor, "B T F"],
    *,
    steps: int = 32,
    guidance: float = 0.0,
    method: str = "euler",
    grid: str = "uniform",
    sway: float = -1.0,
    tolerance: float = 1e-4,
) -> Solution:
    """Follow the velocity from the source to speech.

    Args:
        velocity: The network, with its conditions bound.
        x_0: State at t = 0.
        steps: Solver steps; "dopri5" chooses its own.
        guidance: Scale; 0: none.
        method: "euler" (one evaluation a step), "midpoint", "heun" (two), or "dopri5" (adaptive, by
            torchdiffeq).
        grid: Spacing of the steps, see `time_grid`.
        sway: Strength of the grid "sway".
        tolerance: Relative and absolute, of "dopri5".

    Raises:
        ValueError: An unknown method or grid, naming those allowed.
        ImportError: "dopri5" without torchdiffeq installed.
    """
    if method not in METHODS:
        raise ValueError(f"method={method!r} must be one of {', '.join(METHODS)}")
    guided = Guided(velocity, guidance)
    if method == "dopri5":
        return Solution(_adaptive(guided, x_0, tolerance), guided.evaluations)
    times = time_grid(steps, grid, sway)
    x = x_0
    for start, end in itertools.pairwise(times):
        x = _STEP[method](guided, x, start, end - start)
    return Solution(x, guided.evaluations)
