"""Laws of the DiT: it has the paper's size, its untrained output is zero, and padding and batch change nothing."""

import dataclasses

import pytest
import torch

from flowse.model.dit import DiT
from flowse.model.spec import PAPER, DiTConfig

SMALL = DiTConfig(dim=32, depth=2, heads=2, conv_groups=4, text_dim=16, text_blocks=2)


def awake(dit: DiT) -> DiT:
    """Give every parameter a random value, because a zero initialisation would hide errors."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in dit.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return dit.eval()


def test_the_papers_model_has_337_1_million_parameters() -> None:
    with torch.device("meta"):
        dit = DiT(PAPER, 100, 2545)
    assert round(sum(parameter.numel() for parameter in dit.parameters()) / 1e6, 1) == 337.1


def test_a_fresh_network_returns_exactly_zero() -> None:
    dit = DiT(SMALL, 10, 5)
    x = torch.randn(2, 7, 10)
    assert dit(x, torch.rand(2), x, None, torch.ones(2, 3, dtype=torch.long)).abs().max() == 0


def test_under_autocast_the_residual_stream_stays_in_float32() -> None:
    dit = awake(DiT(dataclasses.replace(SMALL, depth=8), 10, 5))
    x, y, t = torch.randn(1, 40, 10), torch.randn(1, 40, 10), torch.tensor([0.4])
    entered: list[torch.dtype] = []
    dit.blocks[5].register_forward_pre_hook(lambda module, inputs: entered.append(inputs[0].dtype))
    with torch.no_grad():
        exact = dit(x, t, y)
        with torch.autocast("cpu", torch.bfloat16):
            ours = dit(x, t, y).float()
    assert entered == [torch.float32] * 2
    assert (ours - exact).norm() / exact.norm() < 0.05


@pytest.mark.parametrize("qk_norm", [False, True])
@pytest.mark.parametrize("rotary", ["all", "first"])
def test_an_utterance_gets_the_same_estimate_alone_padded_and_in_any_batch(rotary: str, qk_norm: bool) -> None:
    dit = awake(DiT(dataclasses.replace(SMALL, rotary=rotary, qk_norm=qk_norm), 10, 20))
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 3, 40, 10, generator=generator)
    ids = torch.randint(1, 21, (3, 25), generator=generator)
    lengths, t = [13, 40, 27], torch.rand(3, generator=generator)
    mask = torch.arange(40) < torch.tensor(lengths)[:, None]
    together = dit(x, t, y, mask, ids)
    for index, length in enumerate(lengths):
        row = slice(index, index + 1)
        alone = dit(x[row, :length], t[row], y[row, :length], None, ids[row])
        # The bound is relative: sums in another order differ in the last bits of the largest values.
        assert (together[row, :length] - alone).abs().max() < 1e-5 * alone.abs().max()
        assert together[index, length:].abs().sum() == 0


def test_a_dropped_condition_acts_as_zeros_and_other_utterances_keep_theirs() -> None:
    dit = awake(DiT(SMALL, 10, 0))
    x, y, t = torch.randn(2, 9, 10), torch.randn(2, 9, 10), torch.rand(2)
    drop = torch.tensor([True, False])
    dropped = dit(x, t, y, drop_condition=drop)
    assert torch.allclose(dropped[0], dit(x, t, torch.zeros_like(y))[0], atol=1e-6)
    assert torch.allclose(dropped[1], dit(x, t, y)[1], atol=1e-6)
    assert not torch.allclose(dropped[0], dit(x, t, y)[0], atol=1e-3)


def test_activation_checkpointing_does_not_change_gradients() -> None:
    x, y, t = torch.randn(2, 9, 10), torch.randn(2, 9, 10), torch.rand(2)
    gradients = []
    for on in (False, True):
        dit = awake(DiT(SMALL, 10, 0)).train()
        dit.activation_checkpointing = on
        dit(x, t, y).square().sum().backward()
        gradients.append(torch.cat([parameter.grad.flatten() for parameter in dit.parameters()]))
    assert torch.allclose(*gradients, atol=1e-5)


@pytest.mark.parametrize("rotary", ["all", "first"])
def test_a_flows_weights_in_a_network_with_jumps_give_its_output_to_the_bit(rotary: str) -> None:
    # "first" is the form of the official checkpoint.
    config = dataclasses.replace(SMALL, rotary=rotary)
    flow, jumping = awake(DiT(config, 10, 20)), DiT(config, 10, 20, jumps=True).eval()
    left = jumping.load_state_dict(flow.state_dict(), strict=False)
    assert {name.split(".")[0] for name in left.missing_keys} == {"span"}
    assert not left.unexpected_keys
    x, y, t, ids = torch.randn(3, 9, 10), torch.randn(3, 9, 10), torch.rand(3), torch.ones(3, 5, dtype=torch.long)
    v = flow(x, t, y, None, ids)
    for r in (None, t, (t + 1) / 2, torch.ones(3)):
        assert torch.equal(jumping(x, t, y, None, ids, r=r), v)


def test_a_distilled_networks_weights_in_a_guided_one_give_its_output_to_the_bit_at_any_scale() -> None:
    plain, guided = awake(DiT(SMALL, 10, 0, jumps=True)), DiT(SMALL, 10, 0, jumps=True, guided=True).eval()
    left = guided.load_state_dict(plain.state_dict(), strict=False)
    assert {name.split(".")[0] for name in left.missing_keys} == {"guidance"}
    x, y, t, r = torch.randn(3, 9, 10), torch.randn(3, 9, 10), torch.rand(3) / 2, torch.ones(3)
    u = plain(x, t, y, r=r)
    for guidance in (None, torch.zeros(1), torch.rand(3), torch.ones(1)):
        assert torch.equal(guided(x, t, y, r=r, guidance=guidance), u)


def test_no_scale_of_guidance_is_the_scale_0_and_one_of_all_rows_is_that_of_each() -> None:
    dit = awake(DiT(SMALL, 10, 0, jumps=True, guided=True))
    x, y, t = torch.randn(2, 9, 10), torch.randn(2, 9, 10), torch.rand(2) / 2
    assert torch.equal(dit(x, t, y), dit(x, t, y, guidance=torch.zeros(2)))
    half = dit(x, t, y, guidance=torch.full((2,), 0.5))
    assert torch.allclose(dit(x, t, y, guidance=torch.full((1,), 0.5)), half, atol=1e-4)
    assert not torch.allclose(half, dit(x, t, y), atol=1e-3)


def test_the_end_of_the_interval_changes_a_trained_networks_output_and_no_end_means_its_beginning() -> None:
    dit = awake(DiT(SMALL, 10, 0, jumps=True))
    x, y, t = torch.randn(2, 9, 10), torch.randn(2, 9, 10), torch.rand(2) / 2
    assert torch.equal(dit(x, t, y), dit(x, t, y, r=t))
    assert not torch.allclose(dit(x, t, y), dit(x, t, y, r=t + 0.5), atol=1e-3)
