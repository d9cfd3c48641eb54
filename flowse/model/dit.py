"""The diffusion transformer: an estimate for every frame from x_t, noisy mel, text and flow time."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from flowse.model.blocks import Block, ConvPosition, FinalLayer, TimeEmbedding, mask_frames, rotary_angles
from flowse.model.text_encoder import TextEncoder

ROTARY = ("all", "first")


@dataclass(frozen=True, kw_only=True)
class DiTConfig:
    """Size and form of a DiT; the defaults suit a laptop, `PAPER` is the paper's.

    Attributes:
        dim: Width ``D``.
        depth: Number of blocks.
        heads: Attention heads ``H``; `dim / heads` must be even.
        ff_mult: Width of the feed-forward layer, in `dim`.
        dropout: Probability, behind attention and inside the feed-forward layer.
        conv_kernel: Frames that the convolutional position sees; odd.
        conv_groups: Groups of that convolution; divides `dim`.
        text_dim: Channels of the text encoder; used only if there is a vocabulary.
        text_blocks: ConvNeXt V2 blocks of the text encoder.
        rotary: "all" heads have rotary positions; "first": head 0 alone, which the official checkpoint needs.
        qk_norm: Normalise queries and keys (steadier at high learning rates and in bf16).
    """

    dim: int = 192
    depth: int = 4
    heads: int = 3
    ff_mult: int = 2
    dropout: float = 0.0
    conv_kernel: int = 31
    conv_groups: int = 16
    text_dim: int = 128
    text_blocks: int = 2
    rotary: str = "all"
    qk_norm: bool = False

    def __post_init__(self) -> None:
        """Refuse sizes that do not fit each other.

        Raises:
            ValueError: Naming the key, its value and what is allowed.
        """
        if self.dim % self.heads or (self.dim // self.heads) % 2:
            raise ValueError(f"dim={self.dim} must be heads={self.heads} times an even number")
        if self.dim % self.conv_groups:
            raise ValueError(f"dim={self.dim} must be a multiple of conv_groups={self.conv_groups}")
        if self.conv_kernel % 2 == 0:
            raise ValueError(f"conv_kernel={self.conv_kernel} must be odd, so that frames stay where they are")
        if self.text_dim % 2:
            raise ValueError(f"text_dim={self.text_dim} must be even: half cosines, half sines")
        if self.rotary not in ROTARY:
            raise ValueError(f"rotary={self.rotary!r} must be one of {', '.join(ROTARY)}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout={self.dropout} must be in [0, 1)")


PAPER = DiTConfig(dim=1024, depth=22, heads=16, dropout=0.1, text_dim=512, text_blocks=4)
"""The published model: 337.1 M parameters with its vocabulary of 2,545 symbols."""


class DiT(nn.Module):
    """A transformer over mel frames, conditioned on noisy mel, text and time."""

    def __init__(self, config: DiTConfig, n_mels: int, vocabulary_size: int) -> None:
        """Build the network; its output is exactly zero until it is trained.

        Args:
            config: Size and form.
            n_mels: Mel bins ``F`` of input and output.
            vocabulary_size: Symbols of the text encoder; 0: no text encoder.
        """
        super().__init__()
        self.config = config
        self.activation_checkpointing = False
        text_dim = config.text_dim if vocabulary_size else 0
        self.text = TextEncoder(vocabulary_size, config.text_dim, config.text_blocks) if vocabulary_size else None
        self.time = TimeEmbedding(config.dim)
        self.input = nn.Linear(2 * n_mels + text_dim, config.dim)
        self.position = ConvPosition(config.dim, config.conv_kernel, config.conv_groups)
        self.blocks = nn.ModuleList(
            Block(config.dim, config.heads, config.ff_mult, config.dropout, config.rotary, config.qk_norm)
            for _ in range(config.depth)
        )
        self.final = FinalLayer(config.dim, n_mels)

    def forward(
        self,
        x_t: Float[Tensor, "B T F"],
        t: Float[Tensor, " B"],
        condition: Float[Tensor, "B T F"],
        mask: Bool[Tensor, "B T"] | None = None,
        text_ids: Int[Tensor, "B L"] | None = None,
        drop_condition: Bool[Tensor, " B"] | None = None,
        drop_text: Bool[Tensor, " B"] | None = None,
    ) -> Float[Tensor, "B T F"]:
        """Estimate, for an utterance, the same whether it stands alone or padded in a batch.

        Args:
            x_t: State of the flow, normalised log-mel.
            t: Flow time, 0 (noise) to 1 (speech).
            condition: Noisy mel, normalised.
            mask: The real frames; None: all.
            text_ids: Token ids, 0 is the filler; None: no text.
            drop_condition: Utterances whose noisy mel is withheld (zeros).
            drop_text: Utterances whose text is withheld (fillers).

        Returns:
            The estimate; zero outside `mask`.
        """
        if drop_condition is not None:
            condition = condition.masked_fill(drop_condition[:, None, None], 0.0)
        parts = [x_t, condition]
        if self.text is not None:
            parts.append(self.text(text_ids, mask, (x_t.shape[0], x_t.shape[1]), drop_text))
        x = mask_frames(self.input(torch.cat(parts, dim=-1)), mask)
        x = x + self.position(x, mask)
        time = torch.nn.functional.silu(self.time(t))
        head_dim = self.config.dim // self.config.heads
        angles = rotary_angles(x.shape[1], head_dim, x.device)
        for block in self.blocks:
            if self.activation_checkpointing and self.training:
                x = checkpoint(block, x, time, mask, angles, use_reentrant=False)
            else:
                x = block(x, time, mask, angles)
        return mask_frames(self.final(x, time), mask)
