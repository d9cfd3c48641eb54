"""Laws of the path: it joins its ends, draws depend on their utterance alone and have their probabilities."""

import pytest
import torch

from flowse.flow.config import DrawConfig, FlowConfig
from flowse.flow.path import MIN_REMAINING, draw, noise_of, point, source_point, velocity_of_data
from flowse.flow.sampling import Sampling
from flowse.flow.solver import sample


def test_the_path_joins_source_and_speech_with_constant_velocity() -> None:
    x_0, x_1 = torch.randn(2, 5, 3), torch.randn(2, 5, 3)
    assert torch.equal(point(x_0, x_1, torch.zeros(2)).x_t, x_0)
    assert torch.equal(point(x_0, x_1, torch.ones(2)).x_t, x_1)
    early, late = point(x_0, x_1, torch.tensor([0.25, 0.5])), point(x_0, x_1, torch.tensor([0.75, 1.0]))
    assert torch.allclose((late.x_t - early.x_t) / 0.5, early.u_t, atol=1e-5)


def test_draws_of_an_utterance_are_the_same_in_any_batch() -> None:
    config = DrawConfig(drop_condition=0.5, drop_text=0.5)
    together = draw([1, 2, 3], [7, 20, 11], 4, config)
    alone = draw([3], [11], 4, config)
    assert together.t[2] == alone.t[0]
    assert together.interval is not None
    assert alone.interval is not None
    assert torch.equal(together.interval[2], alone.interval[0])
    assert torch.equal(together.noise[2, :11], alone.noise[0])
    assert together.noise[2, 11:].abs().sum() == 0
    assert together.drop_text[2] == alone.drop_text[0]
    assert together.drop_condition[2] == alone.drop_condition[0]


def test_withheld_conditions_have_their_probabilities_and_are_independent() -> None:
    count = 8000
    config = DrawConfig(drop_condition=0.2, drop_text=0.3, drop_both=0.1)
    draws = draw(list(range(count)), [1] * count, 1, config)
    condition, text = draws.drop_condition.float(), draws.drop_text.float()
    assert abs(float(condition.mean()) - (1 - 0.8 * 0.9)) < 0.02
    assert abs(float(text.mean()) - (1 - 0.7 * 0.9)) < 0.02
    assert abs(float((condition * text).mean()) - (0.1 + 0.9 * 0.2 * 0.3)) < 0.02


@pytest.mark.parametrize(("time", "median", "share"), [("uniform", 0.5, 0.5), ("logit_normal", 0.5, 0.7282)])
def test_time_has_its_distribution(time: str, median: float, share: float) -> None:
    t = draw(list(range(4000)), [1] * 4000, 1, DrawConfig(time=time)).t
    assert 0 < t.min() < t.max() < 1
    assert abs(float(t.median()) - median) < 0.03
    # P(0.25 < t < 0.75); for the logit-normal it is P(|z| < ln 3).
    assert abs(float(((t > 0.25) & (t < 0.75)).float().mean()) - share) < 0.03


def test_noise_is_standard_normal() -> None:
    noise = noise_of([1, 2], [3000, 3000], 10)
    assert abs(float(noise.mean())) < 0.02
    assert abs(float(noise.std()) - 1) < 0.02


def test_each_source_point_has_its_closed_form() -> None:
    noise, noisy, predicted = torch.randn(3, 2, 5, 4).unbind(0)
    assert torch.equal(source_point(FlowConfig(), noise, noisy), noise)
    assert torch.equal(source_point(FlowConfig(source="noisy", sigma=0.0), noise, noisy), noisy)
    x_0 = source_point(FlowConfig(source="predicted", sigma=2.0), noise, noisy, predicted)
    assert torch.allclose((x_0 - predicted) / 2, noise, atol=1e-5)
    with pytest.raises(ValueError, match="predicted"):
        source_point(FlowConfig(source="predicted"), noise, noisy)


def test_a_data_predictions_velocity_leads_to_the_estimate() -> None:
    x_t, estimate = torch.randn(2, 3, 5, 4).unbind(0)
    t = torch.tensor([0.0, 0.5, 1 - MIN_REMAINING])
    arrived = x_t + (1 - t)[:, None, None] * velocity_of_data(estimate, x_t, t)
    assert torch.allclose(arrived, estimate, atol=1e-5)
    late = velocity_of_data(estimate, x_t, torch.ones(3))
    assert torch.allclose(late, (estimate - x_t) / MIN_REMAINING)


MEAN, DEVIATION = 1.5, 0.3


def _clean_mean(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """E[x_1 | x_t] for x_0 ~ N(0, 1) and x_1 ~ N(MEAN, DEVIATION²), independent."""
    t = t[:, None, None]
    return MEAN + t * DEVIATION**2 / ((1 - t) ** 2 + (t * DEVIATION) ** 2) * (x - t * MEAN)


@pytest.mark.parametrize(("steps", "deviation"), [(1, 0.0), (2, 0.083), (4, 0.177), (8, 0.235), (32, 0.282)])
def test_steps_of_the_exact_data_prediction_are_those_of_the_exact_velocity(steps: int, deviation: float) -> None:
    """Law L6: two ways to write one flow, with the same figures as a velocity (law L4); the last step is E[x_1 | x]."""
    x_0 = torch.randn(1, 400, 50, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = sample(lambda x, t, null, packed: velocity_of_data(_clean_mean(x, t), x, t), x_0, Sampling(steps=steps))
    assert float(found.x_1.std() / x_0.std()) == pytest.approx(deviation, abs=2e-3)
    x = x_0
    for index in range(steps):
        t = x.new_full((1,), index / steps)
        estimate = _clean_mean(x, t)
        x = x + 1 / steps / (1 - index / steps) * (estimate - x)
    assert torch.allclose(found.x_1, x, atol=1e-9)
    assert torch.allclose(found.x_1, estimate, atol=1e-9)
