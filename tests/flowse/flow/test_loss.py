"""Laws of the losses: they are zero for the truth, ignore padding, and have closed forms."""

import torch

from flowse.flow.config import LossConfig
from flowse.flow.loss import data_loss, flow_loss, regression_loss
from flowse.flow.path import PathPoint, point, velocity_of_data


def _path() -> PathPoint:
    return point(torch.randn(2, 6, 3), torch.randn(2, 6, 3), torch.tensor([0.2, 0.9]))


CLAMPED = LossConfig(range_db=60.0, compressed=40.0)
MASK = torch.arange(6) < torch.tensor([[6], [4]])


def test_the_true_velocity_has_no_loss() -> None:
    path = _path()
    terms = flow_loss(lambda x, t: path.u_t, path, MASK, LossConfig())
    assert all(float(value.abs().max()) < 1e-5 for value in terms.values())


def test_a_constant_error_has_its_closed_form() -> None:
    path = _path()
    terms = flow_loss(lambda x, t: path.u_t + 0.5, path, MASK, LossConfig(mel_l1=2.0))
    frames = torch.tensor([6.0, 4.0])
    assert torch.allclose(terms["velocity"], 0.25 * frames)
    assert torch.allclose(terms["mel_l1"], 0.5 * (1 - path.t) * frames, atol=1e-5)
    assert torch.allclose(terms["loss"], terms["velocity"] + 2 * terms["mel_l1"])


def test_padding_does_not_change_the_loss() -> None:
    path = _path()
    error = torch.randn(2, 6, 3)
    wrong_in_padding = error.masked_fill(~MASK.unsqueeze(-1), 1e6)
    losses = [
        flow_loss(lambda x, t, e=e: path.u_t + e, path, MASK, LossConfig())["loss"] for e in (error, wrong_in_padding)
    ]
    assert torch.equal(*losses)
    estimate = path.x_1 + wrong_in_padding
    for config in (LossConfig(), CLAMPED):
        assert torch.allclose(
            regression_loss(estimate, path.x_1, MASK, config, 2.0)["loss"],
            regression_loss(path.x_1 + error, path.x_1, MASK, config, 2.0)["loss"],
        )
        loud_in_padding = path.x_1.masked_fill(~MASK.unsqueeze(-1), 50.0)
        assert torch.equal(
            regression_loss(estimate, loud_in_padding, MASK, config, 2.0)["loss"],
            regression_loss(estimate, path.x_1, MASK, config, 2.0)["loss"],
        )


def test_the_regression_loss_without_options_is_the_l1() -> None:
    x_1, error = torch.randn(2, 6, 3), torch.randn(2, 6, 3)
    loss = regression_loss(x_1 + error, x_1, None, LossConfig(), 2.0)["loss"]
    assert torch.allclose(loss, error.abs().mean(dim=2).sum(dim=1), atol=1e-5)


def test_bins_below_the_clamp_do_not_change_the_loss() -> None:
    clean = torch.zeros(1, 4, 3)
    clean[0, 0, 0] = 10.0  # nepers, at a standard deviation of 1
    wrong = clean.clone()
    wrong[0, 1:] -= 5.0
    assert regression_loss(wrong, clean, None, LossConfig(range_db=80.0), 1.0)["loss"] == 0
    assert regression_loss(wrong, clean, None, LossConfig(range_db=90.0), 1.0)["loss"] > 0


def test_the_compressed_loss_has_its_closed_form_at_any_level() -> None:
    config = LossConfig(compressed=7.0)
    x_1, estimate = torch.randn(1, 5, 3), torch.randn(1, 5, 3)
    magnitudes = [(2.0 * x).exp() ** 0.3 for x in (estimate, x_1)]
    relative = (magnitudes[0] - magnitudes[1]).square() / magnitudes[1].max() ** 2
    plain = regression_loss(estimate, x_1, None, LossConfig(), 2.0)["loss"]
    loss = regression_loss(estimate, x_1, None, config, 2.0)["loss"]
    if float((0.6 * (estimate - x_1.max())).max()) < 1:
        assert torch.allclose(loss - plain, 7 * relative.mean(dim=2).sum(dim=1), rtol=1e-4)
    louder = regression_loss(estimate + 1, x_1 + 1, None, config, 2.0)["loss"]
    assert torch.allclose(louder, loss, rtol=1e-4)


def test_an_estimate_far_too_loud_has_a_finite_loss() -> None:
    clean = torch.zeros(1, 4, 3)
    assert torch.isfinite(regression_loss(clean + 1e4, clean, None, CLAMPED, 2.0)["loss"]).all()


def test_a_data_predictions_loss_is_its_velocitys_except_at_the_end() -> None:
    path = point(torch.randn(2, 6, 3), torch.randn(2, 6, 3), torch.tensor([0.2, 1.0]))
    estimate = path.x_1 + 0.1 * torch.randn(2, 6, 3)
    terms = data_loss(estimate, path, MASK, LossConfig())
    of_velocity = flow_loss(lambda x, t: velocity_of_data(estimate, x, t), path, MASK, LossConfig())
    assert all(torch.allclose(terms[name][:1], of_velocity[name][:1], atol=1e-4) for name in terms)
    error = (estimate - path.x_1).square().mean(dim=2).masked_fill(~MASK, 0).sum(dim=1)
    assert torch.allclose(terms["velocity"][1], error[1] / 0.05**2)
    assert float(data_loss(path.x_1, path, MASK, LossConfig())["loss"].abs().max()) < 1e-6
