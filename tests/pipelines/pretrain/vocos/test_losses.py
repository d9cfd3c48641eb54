"""Laws of the losses: they are zero for equal waveforms and equal their closed forms for simple differences."""

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


def test_the_loss_between_a_waveform_and_itself_or_its_negative_is_zero(real: torch.Tensor) -> None:
    loss = SpectralLoss()
    assert float(loss.total(loss(real, real))) == 0
    assert float(loss.total(loss(-real, real))) == pytest.approx(0, abs=1e-5)


def test_the_terms_of_a_gain_equal_their_closed_forms(real: torch.Tensor) -> None:
    terms = SpectralLoss()(real / 2, real)
    assert float(terms["log_mel"]) == pytest.approx(torch.log(torch.tensor(2.0)).item(), rel=1e-3)
    assert float(terms["convergence"]) == pytest.approx(0.5, rel=1e-3)
    assert float(terms["compressed"]) == pytest.approx(1 - 0.5**0.4, rel=1e-2)


def test_magnitudes_below_the_floor_do_not_count(real: torch.Tensor) -> None:
    terms = SpectralLoss(SpectralLossConfig(floor=1e-2))(real * 1e-6, real * 1e-7)
    assert float(terms["log_mel"]) == 0


def test_silence_has_a_finite_gradient() -> None:
    generated = torch.zeros(1, 4096, requires_grad=True)
    loss = SpectralLoss()
    loss.total(loss(generated, torch.zeros(1, 4096))).backward()
    assert generated.grad is not None
    assert torch.isfinite(generated.grad).all()


def test_hinge_losses_are_zero_for_right_discriminators_and_for_a_perfect_generator() -> None:
    high, low = [torch.full((3,), 1.5)], [torch.full((3,), -1.5)]
    assert float(discriminator_loss(high, low)) == 0
    assert float(discriminator_loss(low, high)) == 5
    assert float(generator_loss(high)) == 0
    assert float(generator_loss(low)) == 2.5


def test_the_loss_between_equal_features_is_zero() -> None:
    features = [torch.ones(2, 3), torch.full((4,), 2.0)]
    assert float(feature_loss(features, features)) == 0
    assert float(feature_loss(features, [2 * f for f in features])) == pytest.approx(1)
