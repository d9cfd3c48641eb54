"""Laws of the mask U-Net: it only attenuates, padding and batch change nothing, and it can be trained."""

import pytest
import torch
from torch import Tensor

from flowse.model.mask_unet import LEAST_LOG_GAIN, MaskUNet
from flowse.model.spec import MaskUNetConfig

SMALL = MaskUNetConfig(channels=(4, 6, 8), dim=16, depth=6)


def awake(config: MaskUNetConfig = SMALL, n_mels: int = 25) -> MaskUNet:
    """Return a network whose weights are all random."""
    torch.manual_seed(3)
    network = MaskUNet(config, n_mels)
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
    assert (together[1, 37:] == 0).all()
    wild = y.clone()
    wild[1, 37:] = 1e3
    assert torch.equal(network(wild, mask), together)


@torch.no_grad()
def test_gains_are_at_most_1_and_at_least_the_least_gain() -> None:
    gains = awake()(100 * noisy())
    assert (gains <= 0).all()
    assert (gains >= LEAST_LOG_GAIN).all()
    assert torch.allclose(MaskUNet(SMALL, 25)(noisy()), torch.tensor(2.0).sigmoid().log(), atol=1e-6)


@torch.no_grad()
def test_a_gain_depends_only_on_frames_within_the_reach_of_the_convolutions() -> None:
    network, y = awake(MaskUNetConfig(channels=(4, 6), dim=16, depth=1)), noisy(80)
    other = y.clone()
    other[:, 60:] += 1
    # 2 + (2 + 1 + 2) in the encoder, 2 along time, 2 in the decoder, 1 in the output layer.
    reach = 12
    assert torch.equal(network(y)[:, : 60 - reach], network(other)[:, : 60 - reach])
    assert not torch.equal(network(y)[:, 60 - reach : 60], network(other)[:, 60 - reach : 60])


def test_every_weight_is_used() -> None:
    network = awake().train()
    network(noisy()).sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())


def test_activation_checkpointing_does_not_change_gradients_and_runs_blocks_twice() -> None:
    gradients, runs = [], []
    for on in (False, True):
        network = awake().train()
        network.activation_checkpointing = on
        calls: list[int] = []
        network.down[0].register_forward_pre_hook(lambda *_, calls=calls: calls.append(1))
        network(noisy(), torch.arange(60) < torch.tensor([[60], [37]])).sum().backward()
        gradients.append([parameter.grad for parameter in network.parameters()])
        runs.append(len(calls))
    assert runs == [1, 2]
    assert all(torch.allclose(plain, checkpointed, rtol=1e-5) for plain, checkpointed in zip(*gradients, strict=True))


@pytest.mark.parametrize("n_mels", [25, 80, 100])
def test_the_output_has_as_many_bins_as_the_input(n_mels: int) -> None:
    assert awake(MaskUNetConfig(channels=(2, 2, 2, 2)), n_mels)(noisy(7, n_mels)).shape == (2, 7, n_mels)


def test_training_finds_the_bins_with_noise() -> None:
    torch.manual_seed(0)
    network = MaskUNet(SMALL, 25)
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
