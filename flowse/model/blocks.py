"""The layers of a DiT: masked attention, adaptive norms, and embeddings of position and time."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn


def mask_frames(x: Float[Tensor, "B T D"], mask: Bool[Tensor, "B T"] | None) -> Float[Tensor, "B T D"]:
    """Set the frames outside `mask` to zero; if `mask` is None, all frames are real."""
    return x if mask is None else x.masked_fill(~mask.unsqueeze(-1), 0.0)


def sinusoid(position: Float[Tensor, " N"], width: int) -> Float[Tensor, "N D"]:
    """Embed positions as cosines, then sines, of `width / 2` frequencies from 1 to 1/10000 (exclusive)."""
    frequency = 10_000.0 ** (-torch.arange(0, width, 2, device=position.device, dtype=torch.float32) / width)
    angle = position.float().unsqueeze(-1) * frequency
    return torch.cat((angle.cos(), angle.sin()), dim=-1)


def rotary_angles(frames: int, width: int, device: torch.device) -> tuple[Float[Tensor, "T K"], Float[Tensor, "T K"]]:
    """Return cosine and sine of every frame's rotary angles, one for each of `width / 2` channel pairs, base 10000."""
    embedded = sinusoid(torch.arange(frames, device=device, dtype=torch.float32), width)
    cosine, sine = embedded.chunk(2, dim=-1)
    return cosine, sine


def apply_rotary(
    x: Float[Tensor, "B H T W"], cosine: Float[Tensor, "T K"], sine: Float[Tensor, "T K"]
) -> Float[Tensor, "B H T W"]:
    """Rotate each pair of neighbouring channels by its frame's angle (interleaved rotary), computed in float32."""
    paired = torch.unflatten(x.float(), -1, (-1, 2))
    even, odd = paired.unbind(-1)
    rotated = torch.stack((even * cosine - odd * sine, odd * cosine + even * sine), dim=-1)
    return rotated.flatten(-2).to(x.dtype)


def row_ends(mask: Bool[Tensor, "B T"]) -> Int[Tensor, " E"]:
    """Return where the real frames and the padding of each row end, counted over all rows laid end to end; 0 first."""
    batch, frames = mask.shape
    begins = torch.arange(batch, device=mask.device) * frames
    ends = torch.stack((begins + mask.sum(1), begins + frames), dim=1).flatten()
    counted: Int[Tensor, " E"] = F.pad(ends, (1, 0)).to(torch.int32)
    return counted


def attend_in_rows(
    q: Float[Tensor, "B H T W"], k: Float[Tensor, "B H T W"], v: Float[Tensor, "B H T W"], mask: Bool[Tensor, "B T"]
) -> Float[Tensor, "B H T W"]:
    """Compute attention with flash kernels, which take no mask: real frames and padding are sequences of their own.

    What padding attends to is never read. Nothing is copied, and the CPU need not know the lengths. GPUs only, in 16
    bits.
    """
    from torch.nn.attention.varlen import varlen_attn

    batch, _, frames, _ = q.shape
    ends = row_ends(mask)
    queries, keys, values = (x.transpose(1, 2).flatten(0, 1) for x in (q, k, v))
    attended: Any = varlen_attn(queries, keys, values, ends, ends, frames, frames)
    rows: Float[Tensor, "B H T W"] = attended.unflatten(0, (batch, frames)).transpose(1, 2)
    return rows


def flash_agrees(device: torch.device | str) -> bool:
    """Whether `attend_in_rows` works on a device and gives what attention under a mask gives, gradients included."""
    if torch.device(device).type != "cuda":
        return False
    generator = torch.Generator(device).manual_seed(0)
    mask = torch.arange(40, device=device) < torch.tensor([[40], [23], [1]], device=device)
    shape = (3, 2, 40, 64)
    q, k, v = (torch.randn(shape, generator=generator, device=device).bfloat16().requires_grad_() for _ in range(3))
    seen: list[tuple[Tensor, ...]] = []
    try:
        for attended in (
            attend_in_rows(q, k, v, mask),
            F.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None, :]),
        ):
            real = attended.float() * mask[:, None, :, None]
            seen.append((real, *torch.autograd.grad(real.square().sum(), (q, k, v))))
    except (RuntimeError, ImportError, TypeError, NotImplementedError):
        return False
    return all(torch.allclose(mine.float(), other.float(), atol=0.1) for mine, other in zip(*seen, strict=True))


class Attention(nn.Module):
    """Self-attention over the real frames, with rotary positions."""

    def __init__(self, dim: int, heads: int, dropout: float, rotary: str, qk_norm: bool) -> None:
        """Build the projections.

        Args:
            dim: Width ``D``, a multiple of `heads`.
            heads: Number of heads ``H``.
            dropout: Dropout probability of the output.
            rotary: "all": every head has rotary positions; "first": only head 0 has, as in the official FlowSE
                checkpoint.
            qk_norm: Whether queries and keys are divided by their root mean square, head by head.
        """
        super().__init__()
        self.heads = heads
        self.rotary = rotary
        self.flash = False
        """Whether padded batches are computed by flash kernels; for GPUs, in 16 bits, where `flash_agrees`."""
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)
        self.dropout = nn.Dropout(dropout)
        self.q_norm = nn.RMSNorm(dim // heads, eps=1e-6) if qk_norm else nn.Identity()
        self.k_norm = nn.RMSNorm(dim // heads, eps=1e-6) if qk_norm else nn.Identity()

    def forward(
        self,
        x: Float[Tensor, "B T D"],
        mask: Bool[Tensor, "B T"] | None,
        angles: tuple[Float[Tensor, "T K"], Float[Tensor, "T K"]],
    ) -> Float[Tensor, "B T D"]:
        """Compute self-attention; no frame attends to frames outside `mask`, whose real frames begin each row."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        # Norms and angles are computed in float32; under autocast, attention is fast in 16 bits alone.
        q, k = (self._position(norm(x.float()), angles).to(v.dtype) for norm, x in ((self.q_norm, q), (self.k_norm, k)))
        if mask is not None and self.flash:
            attended = attend_in_rows(q, k, v, mask)
        else:
            keys = None if mask is None else mask[:, None, None, :]
            attended = F.scaled_dot_product_attention(q, k, v, attn_mask=keys)
        merged: Tensor = self.dropout(self.out(attended.transpose(1, 2).flatten(2)))
        return merged

    def _position(
        self, x: Float[Tensor, "B H T W"], angles: tuple[Float[Tensor, "T K"], Float[Tensor, "T K"]]
    ) -> Float[Tensor, "B H T W"]:
        if self.rotary == "first":
            return torch.cat((apply_rotary(x[:, :1], *angles), x[:, 1:]), dim=1)
        return apply_rotary(x, *angles)


class FeedForward(nn.Sequential):
    """Two linear layers with GELU (tanh form) between them."""

    def __init__(self, dim: int, hidden: int, dropout: float) -> None:
        super().__init__(
            nn.Linear(dim, hidden), nn.GELU(approximate="tanh"), nn.Dropout(dropout), nn.Linear(hidden, dim)
        )


class Block(nn.Module):
    """A transformer block, conditioned on time through AdaLN-zero; before training, the block is the identity."""

    def __init__(self, dim: int, heads: int, ff_mult: int, dropout: float, rotary: str, qk_norm: bool) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim, eps=1e-6, elementwise_affine=False)
        self.modulation = nn.Linear(dim, 6 * dim)
        self.attention = Attention(dim, heads, dropout, rotary, qk_norm)
        self.feed_forward = FeedForward(dim, ff_mult * dim, dropout)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(
        self,
        x: Float[Tensor, "B T D"],
        time: Float[Tensor, "U D"],
        mask: Bool[Tensor, "B T"] | None,
        angles: tuple[Float[Tensor, "T K"], Float[Tensor, "T K"]],
    ) -> Float[Tensor, "B T D"]:
        """Add attention and feed-forward layer to `x`; `time` is the time embedding after SiLU."""
        shift_a, scale_a, gate_a, shift_f, scale_f, gate_f = self.modulation(time).unsqueeze(1).chunk(6, dim=-1)
        x = x + gate_a * self.attention(self.norm(x) * (1 + scale_a) + shift_a, mask, angles)
        x = x + gate_f * self.feed_forward(self.norm(x) * (1 + scale_f) + shift_f)
        return x


class FinalLayer(nn.Module):
    """Adaptive norm and projection to mel bins; the output is zero at the start of training."""

    def __init__(self, dim: int, n_mels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim, eps=1e-6, elementwise_affine=False)
        self.modulation = nn.Linear(dim, 2 * dim)
        self.out = nn.Linear(dim, n_mels)
        for parameter in (*self.modulation.parameters(), *self.out.parameters()):
            nn.init.zeros_(parameter)

    def forward(self, x: Float[Tensor, "B T D"], time: Float[Tensor, "U D"]) -> Float[Tensor, "B T F"]:
        """Project the frames to mel bins; `time` is the time embedding after SiLU."""
        scale, shift = self.modulation(time).unsqueeze(1).chunk(2, dim=-1)
        out: Tensor = self.out(self.norm(x) * (1 + scale) + shift)
        return out


class ConvPosition(nn.Module):
    """Convolutional position embedding: two grouped convolutions over the real frames."""

    def __init__(self, dim: int, kernel: int, groups: int) -> None:
        super().__init__()
        self.first = nn.Conv1d(dim, dim, kernel, padding=kernel // 2, groups=groups)
        self.second = nn.Conv1d(dim, dim, kernel, padding=kernel // 2, groups=groups)

    def forward(self, x: Float[Tensor, "B T D"], mask: Bool[Tensor, "B T"] | None) -> Float[Tensor, "B T D"]:
        """Compute both convolutions; frames outside `mask` are zeros before each, like the frames beyond the end."""
        x = mask_frames(x, mask)
        x = F.mish(self.first(x.transpose(1, 2))).transpose(1, 2)
        x = mask_frames(x, mask)
        return F.mish(self.second(x.transpose(1, 2))).transpose(1, 2)


class TimeEmbedding(nn.Module):
    """Embeds flow time 0..1 as a vector: sines and cosines of 1000 times the time, then two linear layers."""

    def __init__(self, dim: int, width: int = 256) -> None:
        super().__init__()
        self.width = width
        self.mlp = nn.Sequential(nn.Linear(width, dim), nn.SiLU(), nn.Linear(dim, dim))

    def forward(self, t: Float[Tensor, " B"]) -> Float[Tensor, "B D"]:
        """Embed times: sines, then cosines, of frequencies from 1 to 1/10000 inclusive (the official layout)."""
        half = self.width // 2
        exponent = torch.arange(half, device=t.device, dtype=torch.float32) / (half - 1)
        angle = 1000.0 * t.float().unsqueeze(-1) * torch.exp(-math.log(10_000.0) * exponent)
        embedded: Tensor = self.mlp(torch.cat((angle.sin(), angle.cos()), dim=-1))
        return embedded
