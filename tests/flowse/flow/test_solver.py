"""Laws of the solvers: exact for straight paths, closed form for a Gaussian, their order, guidance, evaluations."""

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from flowse.flow.sampling import GRIDS, METHODS, Sampling
from flowse.flow.solver import sample, time_grid


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("grid", GRIDS)
def test_the_true_velocity_recovers_the_speech(method: str, grid: str) -> None:
    if method == "dopri5":
        pytest.importorskip("torchdiffeq", reason="the adaptive solver needs torchdiffeq")
    x_0, x_1 = torch.randn(2, 7, 5), torch.randn(2, 7, 5)
    solution = sample(lambda x, t, null, n: x_1 - x_0, x_0, Sampling(steps=3, method=method, grid=grid))
    assert torch.allclose(solution.x_1, x_1, atol=1e-5)


MEAN, DEVIATION = 1.5, 0.3


def gaussian_velocity(x: Tensor, t: Tensor, null: Tensor | None, packed: int) -> Tensor:
    """E[x_1 - x_0 | x_t] for x_0 ~ N(0, 1) and x_1 ~ N(MEAN, DEVIATION²), independent."""
    t = t[:, None, None]
    variance = (1 - t) ** 2 + (t * DEVIATION) ** 2
    return MEAN + (t * DEVIATION**2 - (1 - t)) / variance * (x - t * MEAN)


@pytest.mark.parametrize(
    ("method", "steps"), [("euler", 400), ("ab2", 100), ("midpoint", 40), ("heun", 60), ("dopri5", 1)]
)
def test_a_gaussian_target_with_known_velocity_comes_out_as_that_gaussian(method: str, steps: int) -> None:
    if method == "dopri5":
        pytest.importorskip("torchdiffeq", reason="the adaptive solver needs torchdiffeq")
    x_0 = torch.randn(1, 500, 40, generator=torch.Generator().manual_seed(0))
    x_1 = sample(gaussian_velocity, x_0, Sampling(steps=steps, method=method)).x_1
    # The flow of two Gaussians is the affine map between them, point by point.
    assert torch.allclose(x_1, MEAN + DEVIATION * x_0, atol=0.03)
    assert abs(float(x_1.mean()) - MEAN) < 0.02
    assert abs(float(x_1.std()) - DEVIATION) < 0.02


@pytest.mark.parametrize(("method", "order"), [("euler", 1), ("ab2", 2), ("midpoint", 2), ("heun", 2)])
def test_the_error_falls_with_the_solvers_order(method: str, order: int) -> None:
    x_0 = torch.randn(1, 20, 5, dtype=torch.float64)

    def error(steps: int) -> float:
        # x' = -x from t = 0 to 1 has the solution x_0 / e.
        solution = sample(lambda x, t, null, n: -x, x_0, Sampling(steps=steps, method=method))
        return float((solution.x_1 - x_0 * torch.exp(torch.tensor(-1.0, dtype=torch.float64))).abs().max())

    assert error(20) / error(40) == pytest.approx(2**order, rel=0.15)


def conditional(x: Tensor, t: Tensor, null: Tensor | None, packed: int) -> Tensor:
    """A velocity of 2 with its condition, of 1 without."""
    v = torch.full_like(x, 2.0)
    return v if null is None else torch.where(null[:, None, None], 1.0, v)


@pytest.mark.parametrize("scale", [0.0, 0.5, 2.0])
def test_guidance_extrapolates_from_the_null_branch_through_the_conditional_one(scale: float) -> None:
    x_0 = torch.zeros(3, 4, 2)
    solution = sample(conditional, x_0, Sampling(steps=2, guidance=scale))
    assert torch.allclose(solution.x_1, torch.full_like(x_0, 2 + scale * (2 - 1)))
    assert solution.evaluations == (2 if scale == 0 else 4)


def test_guidance_zero_skips_the_null_branch() -> None:
    nulls: list[Tensor | None] = []

    def spy(x: Tensor, t: Tensor, null: Tensor | None, packed: int) -> Tensor:
        nulls.append(null)
        return x

    sample(spy, torch.zeros(1, 2, 2), Sampling(steps=3, guidance=0.0))
    assert nulls == [None] * 3


@pytest.mark.parametrize(("method", "each"), [("euler", 1), ("ab2", 1), ("midpoint", 2), ("heun", 2)])
def test_evaluations_are_counted(method: str, each: int) -> None:
    x_0 = torch.zeros(1, 2, 2)
    assert sample(conditional, x_0, Sampling(steps=5, method=method)).evaluations == 5 * each
    assert sample(conditional, x_0, Sampling(steps=5, method=method, guidance=1.0)).evaluations == 10 * each


def test_grids_rise_from_0_to_1_and_sway_has_shorter_steps_at_the_beginning() -> None:
    for grid, steps in itertools.product(GRIDS, (1, 2, 3, 8, 13)):
        times = time_grid(steps, grid)
        assert len(times) == steps + 1
        assert times[0] == 0
        assert times[-1] == pytest.approx(1)
        assert times == sorted(set(times))
    assert time_grid(8, "sway")[1] < 1 / 8


def test_the_epss_grid_of_16_steps_has_its_published_times_and_8_take_each_second() -> None:
    published = [*range(9), 10, 12, 14, 16, 20, 24, 28, 32]
    assert time_grid(16, "epss") == [thirty_second / 32 for thirty_second in published]
    assert time_grid(8, "epss") == time_grid(16, "epss")[::2]


@pytest.mark.parametrize(("method", "order"), [("euler", 1), ("ab2", 2), ("heun", 2)])
@pytest.mark.parametrize("grid", GRIDS)
def test_the_order_holds_on_the_gaussian_flow_on_every_grid(method: str, order: int, grid: str) -> None:
    x_0 = torch.randn(1, 50, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def error(steps: int) -> float:
        solution = sample(gaussian_velocity, x_0, Sampling(steps=steps, method=method, grid=grid))
        return float((solution.x_1 - (MEAN + DEVIATION * x_0)).abs().max())

    assert math.log2(error(256) / error(512)) == pytest.approx(order, abs=0.15)


def test_eight_evaluations_of_ab2_are_better_than_sixteen_of_euler() -> None:
    x_0 = torch.randn(1, 200, 40, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def deviation(**settings: Any) -> float:
        return float(sample(gaussian_velocity, x_0, Sampling(**settings)).x_1.std() / x_0.std())

    euler, ab2 = deviation(steps=16), deviation(steps=8, method="ab2")
    assert abs(ab2 - DEVIATION) < abs(euler - DEVIATION)


@pytest.mark.parametrize(("steps", "expected"), [(1, 0.0), (2, 0.083), (4, 0.177), (8, 0.235), (32, 0.282)])
def test_few_euler_steps_of_a_plain_flow_lose_its_spread(steps: int, expected: float) -> None:
    # One evaluation is the conditional mean: a regression.
    x_0 = torch.randn(1, 200, 40, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x_1 = sample(gaussian_velocity, x_0, Sampling(steps=steps)).x_1
    assert float(x_1.std() / x_0.std()) == pytest.approx(expected, abs=1e-3)


def test_an_unknown_grid_and_no_step_are_refused() -> None:
    with pytest.raises(ValueError, match="sway"):
        time_grid(3, "magic")
    with pytest.raises(ValueError, match="steps=0"):
        time_grid(0)
