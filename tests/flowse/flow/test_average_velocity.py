"""Laws of the average velocity: its identity, jumps that agree in any number, targets, and what distillation buys."""

import pytest
import torch
from torch import Tensor, nn

from flowse.flow.average_velocity import (
    FLOW,
    SELF,
    TEACHER,
    Intervals,
    average_velocity_loss,
    composed,
    heun_average,
    jump,
    sample_by_jumps,
    targets,
)
from flowse.flow.config import DistilConfig
from flowse.flow.path import point
from flowse.flow.sampling import Sampling
from flowse.flow.solver import sample

MEAN, DEVIATION = 1.5, 0.3
CONFIG = DistilConfig()


def _spread(t: Tensor) -> Tensor:
    return ((1 - t) ** 2 + (t * DEVIATION) ** 2).sqrt()


def velocity(x: Tensor, t: Tensor) -> Tensor:
    """E[x_1 - x_0 | x_t] for x_0 ~ N(0, 1) and x_1 ~ N(MEAN, DEVIATION²), independent."""
    t = t[:, None, None]
    return MEAN + (t * DEVIATION**2 - (1 - t)) / _spread(t) ** 2 * (x - t * MEAN)


def exact(x_t: Tensor, t: Tensor, r: Tensor) -> Tensor:
    """Average velocity of that flow, whose map from t to r is affine; needs t < r."""
    t, r = t[:, None, None], r[:, None, None]
    return (r * MEAN + _spread(r) / _spread(t) * (x_t - t * MEAN) - x_t) / (r - t)


def _interval(batch: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    t, d, split = torch.rand(3, batch, generator=rng, dtype=torch.float64).unbind(0)
    d = 1 / 64 + d * (1 - 1 / 64)
    t, split = (1 - d) * t, 0.05 + 0.9 * split
    return torch.randn(batch, 7, 3, generator=rng, dtype=torch.float64), t, t + d, split


def test_the_exact_average_velocity_obeys_the_identity() -> None:
    x_t, t, r, split = _interval(200)
    assert float((composed(exact, x_t, t, r, split) - exact(x_t, t, r)).abs().max()) < 4e-12


def test_a_jump_of_no_length_stays_where_it_is() -> None:
    x_t, t, _, _ = _interval(5)
    assert torch.equal(jump(lambda x, t, r: x * 100, x_t, t, t), x_t)


@pytest.mark.parametrize("steps", [1, 2, 4, 8, 32])
@pytest.mark.parametrize("grid", ["uniform", "epss"])
def test_exact_jumps_give_the_same_speech_in_any_number(steps: int, grid: str) -> None:
    x_0 = torch.randn(3, 7, 5, dtype=torch.float64)
    solution = sample_by_jumps(exact, x_0, steps, grid)
    assert torch.allclose(solution.x_1, MEAN + DEVIATION * x_0, atol=1e-9)
    assert solution.evaluations == steps


@pytest.mark.parametrize(("leg", "expected"), [(8, 0.2347), (32, 0.2825), (128, 0.2955)])
def test_composing_euler_legs_is_only_as_good_as_the_legs(leg: int, expected: float) -> None:
    x_0 = torch.randn(1, 200, 40, dtype=torch.float64)
    x_1 = sample_by_jumps(lambda x, t, r: velocity(x, t), x_0, leg).x_1
    assert float(x_1.std() / x_0.std()) == pytest.approx(expected, abs=1e-4)


def test_the_teachers_legs_are_of_second_order() -> None:
    x_t, t, _, split = _interval(50)
    t = t / 2

    def error(length: float) -> float:
        r = t + length
        return float((heun_average(velocity, x_t, t, r, split) - exact(x_t, t, r)).abs().max())

    # An average over a step is one order of the step less than the displacement's, whose local error is of third order.
    assert error(1 / 32) / error(1 / 64) == pytest.approx(4, rel=0.2)


def test_the_division_by_a_short_interval_is_in_float32() -> None:
    x_t, t, _, split = (value.bfloat16() for value in _interval(4))
    u = heun_average(lambda x, t: torch.ones_like(x), x_t, t, t + 1 / 64, split)
    assert u.dtype == torch.float32


def _uniform(batch: int) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(1)
    return torch.rand(batch, generator=rng), torch.rand(batch, 3, generator=rng)


@pytest.mark.parametrize(("progress", "longest"), [(0.0, 0.1), (0.3, 0.1), (0.34, 1.0), (1.0, 1.0)])
def test_intervals_have_their_shares_and_limits(progress: float, longest: float) -> None:
    found = Intervals.of(*_uniform(20_000), CONFIG, progress)
    length = found.r - found.t
    jumps = found.kind != FLOW
    assert float((~jumps).float().mean()) == pytest.approx(0.5, abs=0.02)
    assert torch.equal(found.r[~jumps], found.t[~jumps])
    assert float((found.kind == SELF).float().mean()) == pytest.approx(0.25 if longest == 1 else 0, abs=0.02)
    assert float(length[jumps].min()) >= 1 / 64 - 1e-6
    assert longest * 0.99 < float(length.max()) <= longest + 1e-6
    assert 0 <= float(found.t.min()) <= float(found.r.max()) <= 1
    shorter = Intervals.of(*_uniform(20_000), DistilConfig(teacher_span=0.05), progress)
    assert float((shorter.r - shorter.t)[shorter.kind == TEACHER].max()) <= 0.05 + 1e-6


def test_validation_measures_against_the_teacher_alone() -> None:
    assert (Intervals.of(*_uniform(100), CONFIG, 1.0, teacher_alone=True).kind == TEACHER).all()


def test_each_utterance_has_the_target_of_its_kind() -> None:
    x_0, x_1 = torch.randn(2, 6, 4, 3).unbind(0)
    t, r = torch.full((6,), 0.25), torch.full((6,), 0.75)
    kind = torch.tensor([FLOW, TEACHER, SELF, SELF, TEACHER, FLOW])
    intervals = Intervals(kind, t, torch.where(kind == FLOW, t, r), torch.full((6,), 0.5))
    path = point(x_0, x_1, t)
    found = targets(path, intervals, lambda rows: velocity, lambda rows: exact)
    assert torch.equal(found[kind == FLOW], path.u_t[kind == FLOW])
    rows = kind == TEACHER
    legs = heun_average(velocity, path.x_t[rows], t[rows], r[rows], intervals.split[rows])
    assert torch.allclose(found[rows], legs)
    rows = kind == SELF
    assert torch.allclose(found[rows], exact(path.x_t[rows], t[rows], r[rows]), atol=1e-5)


def test_the_loss_of_a_constant_error_has_its_closed_form_and_padding_does_not_change_it() -> None:
    target = torch.randn(2, 6, 3)
    mask = torch.arange(6) < torch.tensor([[6], [4]])
    u = (target + 0.5).masked_fill(~mask.unsqueeze(-1), 1e6)
    terms = average_velocity_loss(u, target, mask, CONFIG)
    frames = torch.tensor([6.0, 4.0])
    assert torch.allclose(terms["error"], 0.25 * frames)
    assert torch.allclose(terms["loss"], 0.25 * frames * (0.25 + 1e-3) ** -0.5)
    assert torch.allclose(average_velocity_loss(u, target, mask, DistilConfig(power=0.0))["loss"], 0.25 * frames)


def test_the_weight_passes_no_gradient() -> None:
    u = torch.randn(2, 6, 3, requires_grad=True)
    terms = average_velocity_loss(u, torch.zeros(2, 6, 3), None, CONFIG)
    terms["loss"].sum().backward()  # type: ignore[no-untyped-call]
    weight = (terms["error"].detach() / 6 + 1e-3) ** -0.5
    assert u.grad is not None
    assert torch.allclose(u.grad, weight[:, None, None] * 2 * u.detach() / 3, atol=1e-6)


class _Pointwise(nn.Module):
    """A small average velocity that sees one value at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 48), nn.SiLU(), nn.Linear(48, 48), nn.SiLU(), nn.Linear(48, 1))

    def forward(self, x_t: Tensor, t: Tensor, r: Tensor) -> Tensor:
        t, r = (time[:, None, None].expand_as(x_t) for time in (t, r))
        out: Tensor = self.layers(torch.cat((x_t, t, r - t, t * x_t), dim=-1))
        return out


def _two_points(x_t: Tensor, t: Tensor) -> Tensor:
    """E[x_1 - x_0 | x_t] for x_1 = ±1 with equal chance."""
    t = t[:, None, None].clamp_max(0.999)
    return (torch.tanh(t * x_t / (1 - t) ** 2) - x_t) / (1 - t)


def test_one_distilled_step_has_two_modes_and_one_plain_step_has_none() -> None:
    rng = torch.Generator().manual_seed(0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, averaged = _Pointwise(), _Pointwise()
    averaged.load_state_dict(model.state_dict())
    steps, batch = 800, (48, 24, 1)
    optimiser = torch.optim.Adam(model.parameters(), lr=4e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for step in range(steps):
        x_0 = torch.randn(batch, generator=rng)
        x_1 = torch.randint(0, 2, batch, generator=rng).float() * 2 - 1
        t, uniform = torch.rand(batch[0], generator=rng), torch.rand(batch[0], 3, generator=rng)
        intervals = Intervals.of(t, uniform, CONFIG, step / steps)
        path = point(x_0, x_1, intervals.t)
        target = targets(path, intervals, lambda rows: _two_points, lambda rows: averaged)
        u = model(path.x_t, intervals.t, intervals.r)
        loss = average_velocity_loss(u, target, None, CONFIG)["loss"].sum() / x_0.numel()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        with torch.no_grad():
            for old, new in zip(averaged.parameters(), model.parameters(), strict=True):
                old.lerp_(new, 0.02)
    x_0 = torch.randn(1, 4000, 1, generator=rng)
    modes = {steps: sample_by_jumps(averaged, x_0, steps).x_1.abs() for steps in (1, 4)}
    plain = sample(lambda x, t, null, packed: _two_points(x, t), x_0, Sampling(steps=1)).x_1
    assert float(plain.abs().max()) < 1e-5
    assert float((modes[1] > 0.5).float().mean()) > 0.8
    assert float((modes[4] > 0.5).float().mean()) > 0.9


def test_more_heun_steps_of_the_teacher_come_closer() -> None:
    x_t, t, r, split = _interval(50)
    errors = [
        float((heun_average(velocity, x_t, t, r, split, steps) - exact(x_t, t, r)).abs().mean()) for steps in (1, 2, 4)
    ]
    assert errors[0] > 3 * errors[1] > 9 * errors[2]
