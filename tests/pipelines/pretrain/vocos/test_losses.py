"""Losses are zero where they must be, and grow with what they measure."""

from __future__ import annotations

import pytest
import torch

from pipelines.pretrain.vocos.losses import (
    SpectralLoss,
    SpectralLossConfig,
    discriminator_loss,
    feature_loss,
    generator_loss,
)


@pytest.fixture(scope="module")
def real() -> torch.Tensor:
    return 0.1 * torch.randn(2, 8192, generator=torch.Generator().manual_seed(0))


def test_a_waveform_is_at_no_distance_from_itself_or_its_negative(real: torch.Tensor) -> None:
    loss = SpectralLoss()
    assert float(loss.total(loss(real, real))) == 0
    assert float(loss.total(loss(-real, real))) == pytest.approx(0, abs=1e-5)


def test_the_terms_of_a_gain_are_its_closed_forms(real: torch.Tensor) -> None:
    terms = SpectralLoss()(real / 2, real)
    assert float(terms["log_mel"]) == pytest.approx(torch.log(torch.tensor(2.0)).item(), rel=1e-3)
    assert float(terms["convergence"]) == pytest.approx(0.5, rel=1e-3)
    assert float(terms["compressed"]) == pytest.approx(1 - 0.5**0.4, rel=1e-2)


def test_what_lies_under_the_floor_is_not_heard(real: torch.Tensor) -> None:
    terms = SpectralLoss(SpectralLossConfig(floor=1e-2))(real * 1e-6, real * 1e-7)
    assert float(terms["log_mel"]) == 0


def test_silence_has_a_finite_gradient() -> None:
    made = torch.zeros(1, 4096, requires_grad=True)
    loss = SpectralLoss()
    loss.total(loss(made, torch.zeros(1, 4096))).backward()
    assert made.grad is not None
    assert torch.isfinite(made.grad).all()


def test_hinges_rest_where_the_discriminator_is_right_and_the_generator_has_won() -> None:
    high, low = [torch.full((3,), 1.5)], [torch.full((3,), -1.5)]
    assert float(discriminator_loss(high, low)) == 0
    assert float(discriminator_loss(low, high)) == 5
    assert float(generator_loss(high)) == 0
    assert float(generator_loss(low)) == 2.5


def test_equal_features_are_at_no_distance() -> None:
    features = [torch.ones(2, 3), torch.full((4,), 2.0)]
    assert float(feature_loss(features, features)) == 0
    assert float(feature_loss(features, [2 * f for f in features])) == pytest.approx(1)
