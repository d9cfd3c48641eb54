"""Solvers of the flow's differential equation from t = 0 to 1, with guidance; evaluations are counted."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from flowse.flow.sampling import GRIDS, Sampling

SWAY = -1.0
"""Strength of the grid "sway", -1..2/(pi - 2); -1 is that of F5-TTS (Chen et al., 2024)."""

TOLERANCE = 1e-4
"""Relative and absolute error tolerance of the adaptive solver."""

ConditionalVelocity = Callable[[Tensor, Tensor, Tensor | None, int], Tensor]
"""A velocity whose conditions can be withheld: ``(x_t, t, null, packed) -> v``. `null` marks the rows without
conditions (None: no row); `packed` is the number of copies of the batch that `x_t` holds, one after another."""


@dataclass(frozen=True)
class Solution:
    """Result of a solver.

    Attributes:
        x_1: State at t = 1.
        evaluations: Network evaluations; a batch that is evaluated together with its null branch counts twice.
    """

    x_1: Float[Tensor, "B T F"]
    evaluations: int


class Guided:
    """A velocity with classifier-free guidance, ``v_cond + scale (v_cond - v_null)``; counts evaluations."""

    def __init__(self, velocity: ConditionalVelocity, scale: float) -> None:
        """Bind a velocity.

        Args:
            velocity: The network, with its conditions bound.
            scale: Guidance scale; 0 skips the null branch, otherwise both branches are evaluated in one batch.
        """
        self.velocity = velocity
        self.scale = scale
        self.evaluations = 0

    def __call__(self, x_t: Float[Tensor, "B T F"], t: float) -> Float[Tensor, "B T F"]:
        """Evaluate the guided velocity at `t`, the same for the whole batch."""
        batch = x_t.shape[0]
        if self.scale == 0:
            self.evaluations += 1
            return self.velocity(x_t, x_t.new_full((batch,), t), None, 1)
        self.evaluations += 2
        null: Bool[Tensor, " B2"] = torch.arange(2 * batch, device=x_t.device) >= batch
        both = self.velocity(torch.cat((x_t, x_t)), x_t.new_full((2 * batch,), t), null, 2)
        conditional, unconditional = both.chunk(2)
        return conditional + self.scale * (conditional - unconditional)


def time_grid(steps: int, grid: str = "uniform") -> list[float]:
    """Return ``steps + 1`` times from 0 to 1.

    Args:
        steps: Solver steps.
        grid: "uniform"; "sway": ``t + SWAY (cos(pi t / 2) - 1 + t)``, which has shorter steps near t = 0; or "epss":
            half of the steps up to t = 1/4, a quarter of them up to 1/2, the last quarter up to 1. At 16 steps this
            is the grid of EPSS (Fast F5-TTS, Zheng et al., 2025) before its sway; other numbers follow its density.

    Raises:
        ValueError: No step, or an unknown grid, naming those allowed.
    """
    if steps < 1:
        raise ValueError(f"steps={steps} must be at least 1")
    if grid not in GRIDS:
        raise ValueError(f"grid={grid!r} must be one of {', '.join(GRIDS)}")
    times = [index / steps for index in range(steps + 1)]
    if grid == "sway":
        times = [t + SWAY * (math.cos(math.pi / 2 * t) - 1 + t) for t in times]
    elif grid == "epss":
        times = [max(t / 2, t - 1 / 4, 2 * t - 1) for t in times]
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


def _adams_bashforth(v: _Velocity, x: Tensor, times: Sequence[float]) -> Tensor:
    """Integrate with the two-step Adams-Bashforth method for steps of any lengths; the first step is Euler's."""
    before: tuple[Tensor, float] | None = None
    for start, end in itertools.pairwise(times):
        dt, now = end - start, v(x, start)
        slope = now if before is None else now + dt / (2 * before[1]) * (now - before[0])
        x, before = x + dt * slope, (now, dt)
    return x


def _adaptive(v: _Velocity, x_0: Tensor) -> Tensor:
    try:
        from torchdiffeq import odeint  # type: ignore[import-untyped,unused-ignore]
    except ImportError as error:
        raise ImportError("method='dopri5' needs the package torchdiffeq: pip install torchdiffeq") from error
    times = torch.tensor([0.0, 1.0], device=x_0.device)
    path: Tensor = odeint(lambda t, x: v(x, float(t)), x_0, times, method="dopri5", rtol=TOLERANCE, atol=TOLERANCE)
    return path[-1]


@torch.no_grad()
def sample(velocity: ConditionalVelocity, x_0: Float[Tensor, "B T F"], sampling: Sampling) -> Solution:
    """Integrate the velocity from the source (t = 0) to speech (t = 1).

    Args:
        velocity: The network, with its conditions bound.
        x_0: State at t = 0.
        sampling: Solver, steps, their spacing and guidance; `synthesis` and `limit_db` have no effect here.

    Raises:
        ValueError: ``sampling.steps`` is 0.
        ImportError: "dopri5" without torchdiffeq installed.
    """
    guided = Guided(velocity, sampling.guidance)
    if sampling.method == "dopri5":
        return Solution(_adaptive(guided, x_0), guided.evaluations)
    times = time_grid(sampling.steps, sampling.grid)
    if sampling.method == "ab2":
        return Solution(_adams_bashforth(guided, x_0, times), guided.evaluations)
    step = _STEP[sampling.method]
    x = x_0
    for start, end in itertools.pairwise(times):
        x = step(guided, x, start, end - start)
    return Solution(x, guided.evaluations)
