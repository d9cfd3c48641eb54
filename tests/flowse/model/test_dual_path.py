"""Laws of the dual-path mask: it only takes away, padding and batch change nothing, and it learns."""

import pytest
import torch
from torch import Tensor

from flowse.model.dual_path import LEAST_LOG_GAIN, DualPath
from flowse.model.spec import DualPathConfig

SMALL = DualPathConfig(channels=(4, 6, 8), blocks=2, frequency_dim=5, time_dim=7)


def awake(config: DualPathConfig = SMALL, n_mels: int = 25) -> DualPath:
    """A network whose weights are all in use."""
    torch.manual_seed(3)
    network = DualPath(config, n_mels)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return network.eval()


def noisy(frames: int = 60, n_mels: int = 25) -> Tensor:
    return torch.randn(2, frames, n_mels, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_an_utterance_is_the_same_alone_and_padded() -> None:
    network, y = awake(), noisy()
    mask = torch.arange(60) < torch.tensor([[60], [37]])
    together, alone = network(y, mask), network(y[1:, :37])
    assert torch.allclose(together[1:, :37], alone, atol=1e-5)
    assert torch.allclose(together[:1], network(y[:1]), atol=1e-5)
    assert (together[1, 37:] == 0).all()
    wild = y.clone()
    wild[1, 37:] = 1e3
    assert torch.equal(network(wild, mask), together)


@torch.no_grad()
def test_gains_only_take_away_and_end_somewhere() -> None:
    gains = awake()(100 * noisy())
    assert (gains <= 0).all()
    assert (gains >= LEAST_LOG_GAIN).all()
    assert torch.allclose(DualPath(SMALL, 25)(noisy()), torch.tensor(2.0).sigmoid().log(), atol=1e-6)


@torch.no_grad()
def test_a_frame_hears_what_comes_before_and_after() -> None:
    network, y = awake(), noisy()
    for place in (0, 59):
        other = y.clone()
        other[:, place] += 1
        assert not torch.equal(network(y)[:, 30], network(other)[:, 30])


def test_every_weight_is_used() -> None:
    network = awake().train()
    network(noisy()).sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())


def test_activation_checkpointing_changes_no_gradient_and_runs_blocks_twice() -> None:
    gradients, runs = [], []
    for on in (False, True):
        network = awake().train()
        network.activation_checkpointing = on
        calls: list[int] = []
        network.blocks[0].register_forward_pre_hook(lambda *_, calls=calls: calls.append(1))
        network(noisy(), torch.arange(60) < torch.tensor([[60], [37]])).sum().backward()
        gradients.append([parameter.grad for parameter in network.parameters()])
        runs.append(len(calls))
    assert runs == [1, 2]
    assert all(torch.allclose(plain, other, rtol=1e-4, atol=1e-6) for plain, other in zip(*gradients, strict=True))


@pytest.mark.parametrize("n_mels", [25, 27, 80, 100])
def test_any_number_of_bins_comes_back(n_mels: int) -> None:
    assert awake(SMALL, n_mels)(noisy(7, n_mels)).shape == (2, 7, n_mels)


def test_it_learns_which_bins_are_noise() -> None:
    torch.manual_seed(0)
    network = DualPath(SMALL, 25)
    optimizer = torch.optim.AdamW(network.parameters(), 1e-2)
    losses = []
    for step in range(60):
        speech = torch.zeros(4, 30, 25)
        speech[:, :, (step * 7) % 20 : (step * 7) % 20 + 3] = 2.0  # a line, at another pitch in each step
        wanted = torch.where(speech > 0, 0.0, -2.0)
        error = (network(speech + 0.1 * torch.randn_like(speech)) - wanted).abs().mean()
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
        losses.append(float(error.detach()))
    assert losses[-1] < 0.3 * losses[0]
