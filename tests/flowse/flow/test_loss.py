"""Laws of the losses: zero for the truth, blind to padding, and their closed form."""

import torch

from flowse.flow.loss import LossConfig, flow_loss, regression_loss
from flowse.flow.path import PathPoint, point


def _path() -> PathPoint:
    return point(torch.randn(2, 6, 3), torch.randn(2, 6, 3), torch.tensor([0.2, 0.9]))


MASK = torch.arange(6) < torch.tensor([[6], [4]])


def test_the_true_velocity_costs_nothing() -> None:
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


def test_padding_is_outside_the_loss() -> None:
    path = _path()
    error = torch.randn(2, 6, 3)
    wild = error.masked_fill(~MASK.unsqueeze(-1), 1e6)
    tame, wild_terms = (flow_loss(lambda x, t, e=e: path.u_t + e, path, MASK, LossConfig()) for e in (error, wild))
    assert torch.equal(tame["loss"], wild_terms["loss"])
    estimate = path.x_1 + wild
    assert torch.allclose(
        regression_loss(estimate, path.x_1, MASK)["loss"],
        regression_loss(path.x_1 + error, path.x_1, MASK)["loss"],
    )
