"""Laws of a DiT's layers: rotary scores depend on distances, untrained blocks are the identity, padding is ignored."""

import itertools

import pytest
import torch

from flowse.model.blocks import (
    Attention,
    Block,
    ConvPosition,
    TimeEmbedding,
    apply_rotary,
    flash_agrees,
    rotary_angles,
    row_ends,
)


def test_rotary_scores_depend_on_distance_alone() -> None:
    q, k = torch.randn(1, 1, 1, 16).expand(1, 1, 20, 16), torch.randn(1, 1, 1, 16).expand(1, 1, 20, 16)
    angles = rotary_angles(20, 16, torch.device("cpu"))
    scores = (apply_rotary(q, *angles) @ apply_rotary(k, *angles).transpose(-1, -2))[0, 0]
    for distance in range(-5, 6):
        diagonal = scores.diagonal(distance)
        assert torch.allclose(diagonal, diagonal[0].expand_as(diagonal), atol=1e-4)
    assert not torch.allclose(scores[0, 0], scores[0, 7], atol=1e-2)


def test_rotation_keeps_the_norm() -> None:
    x = torch.randn(2, 3, 11, 8)
    turned = apply_rotary(x, *rotary_angles(11, 8, torch.device("cpu")))
    assert torch.allclose(turned.norm(dim=-1), x.norm(dim=-1), atol=1e-5)


def _order_seen_by_heads(rotary: str) -> list[bool]:
    """Tell for each head whether its output changes when two frames are swapped; without positions it cannot."""
    torch.manual_seed(0)
    attention = Attention(32, 2, 0.0, rotary, qk_norm=False).eval()
    with torch.no_grad():
        attention.out.weight.copy_(torch.eye(32))
        attention.out.bias.zero_()
    x = torch.randn(1, 6, 32)
    swapped = x[:, [0, 2, 1, 3, 4, 5]]
    angles = rotary_angles(6, 16, torch.device("cpu"))
    difference = (attention(x, None, angles) - attention(swapped, None, angles))[0, 0].abs()
    return [bool(head.max() > 1e-5) for head in difference.chunk(2)]


def test_every_head_has_positions_unless_rotary_is_first() -> None:
    assert _order_seen_by_heads("all") == [True, True]
    assert _order_seen_by_heads("first") == [True, False]


def test_with_qk_norm_the_scale_of_the_input_projection_changes_nothing() -> None:
    torch.manual_seed(0)
    attention = Attention(32, 2, 0.0, "all", qk_norm=True).eval()
    x, angles = torch.randn(1, 6, 32), rotary_angles(6, 16, torch.device("cpu"))
    before = attention(x, None, angles)
    with torch.no_grad():
        attention.qkv.weight[:64] *= 50
        attention.qkv.bias[:64] *= 50
    assert torch.allclose(attention(x, None, angles), before, atol=1e-4)


def test_rows_end_where_their_frames_and_their_padding_end() -> None:
    mask = torch.arange(5) < torch.tensor([3, 5, 1]).unsqueeze(-1)
    assert row_ends(mask).tolist() == [0, 3, 5, 10, 10, 11, 15]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="flash kernels are for GPUs")
def test_flash_kernels_attend_as_a_mask_says() -> None:
    assert flash_agrees("cuda")


def test_without_a_gpu_no_flash_kernel_is_used() -> None:
    assert not flash_agrees("cpu")


def test_rows_laid_end_to_end_attend_as_a_mask_says(monkeypatch: pytest.MonkeyPatch) -> None:
    def attend_in_sequences(
        q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, ends: torch.Tensor, _: torch.Tensor, *longest: int
    ) -> torch.Tensor:
        """Stand for the flash kernel: attention within each sequence alone."""
        pieces = []
        for begin, end in itertools.pairwise(ends.tolist()):
            sequence = (x[begin:end].transpose(0, 1) for x in (q, k, v))
            pieces.append(torch.nn.functional.scaled_dot_product_attention(*sequence).transpose(0, 1))
        return torch.cat(pieces)

    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", attend_in_sequences)
    torch.manual_seed(0)
    attention = Attention(32, 2, 0.0, "all", qk_norm=False).eval()
    x, angles = torch.randn(3, 9, 32), rotary_angles(9, 16, torch.device("cpu"))
    mask = torch.arange(9) < torch.tensor([[9], [5], [1]])
    masked = attention(x, mask, angles)
    attention.flash = True
    assert torch.allclose(attention(x, mask, angles)[mask], masked[mask], atol=1e-6)


def test_a_fresh_block_is_the_identity() -> None:
    block = Block(32, 2, 2, 0.0, "all", qk_norm=False)
    x, angles = torch.randn(2, 5, 32), rotary_angles(5, 16, torch.device("cpu"))
    assert torch.equal(block(x, torch.randn(2, 32), None, angles), x)


def test_the_convolution_sees_masked_frames_as_zeros() -> None:
    torch.manual_seed(0)
    position = ConvPosition(32, 31, 16).eval()
    x = torch.randn(1, 9, 32)
    padded = torch.cat((x, 100 * torch.randn(1, 7, 32)), dim=1)
    mask = torch.arange(16)[None] < 9
    assert torch.allclose(position(padded, mask)[:, :9], position(x, None), atol=1e-6)


def test_different_times_have_different_embeddings() -> None:
    embedded = TimeEmbedding(32)(torch.linspace(0, 1, 33))
    distance = torch.cdist(embedded, embedded) + torch.eye(33)
    assert distance.min() > 1e-3
