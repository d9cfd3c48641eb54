"""The diffusion transformer (DiT): it estimates mel frames from the state x_t, the noisy mel, text and flow time."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from flowse.model.blocks import Block, ConvPosition, FinalLayer, TimeEmbedding, mask_frames, rotary_angles
from flowse.model.spec import DiTConfig
from flowse.model.text_encoder import TextEncoder


class DiT(nn.Module):
    """A transformer over mel frames, conditioned on noisy mel, text and time.

    Example:
        >>> dit = DiT(DiTConfig(), n_mels=100, vocabulary_size=0)
        >>> dit(x_t=torch.randn(2, 50, 100), t=torch.rand(2), condition=torch.randn(2, 50, 100)).shape
        torch.Size([2, 50, 100])
    """

    def __init__(
        self,
        config: DiTConfig,
        n_mels: int,
        vocabulary_size: int,
        jumps: bool = False,
        conditions: int = 1,
        guided: bool = False,
    ) -> None:
        """Build the network; before training its output is exactly zero.

        Args:
            config: Sizes and options of the network.
            n_mels: Number of mel bins ``F`` of input and output.
            vocabulary_size: Number of symbols of the text encoder; 0: no text encoder.
            jumps: Whether the network takes the end `r` of an interval too. Before training `r` changes nothing: the
                last layer of its embedding is zero.
            conditions: Number of mels that the network is conditioned on, side by side: the noisy one and, for 2, a
                predictor's estimate.
            guided: Whether the network takes a scale of guidance, too; before training it changes nothing either.
        """
        super().__init__()
        self.config = config
        self.activation_checkpointing = False
        text_dim = config.text_dim if vocabulary_size else 0
        self.text = TextEncoder(vocabulary_size, config.text_dim, config.text_blocks) if vocabulary_size else None
        self.time = TimeEmbedding(config.dim)
        self.input = nn.Linear((1 + conditions) * n_mels + text_dim, config.dim)
        self.position = ConvPosition(config.dim, config.conv_kernel, config.conv_groups)
        self.blocks = nn.ModuleList(
            Block(config.dim, config.heads, config.ff_mult, config.dropout, config.rotary, config.qk_norm)
            for _ in range(config.depth)
        )
        self.final = FinalLayer(config.dim, n_mels)
        self.span = TimeEmbedding(config.dim) if jumps else None
        self.guidance = TimeEmbedding(config.dim) if guided else None
        for added in (self.span, self.guidance):
            for parameter in () if added is None else added.mlp[-1].parameters():
                nn.init.zeros_(parameter)

    def encode(
        self,
        mel: Float[Tensor, "B T F"],
        mask: Bool[Tensor, "B T"] | None = None,
        text_ids: Int[Tensor, "B L"] | None = None,
        drop_text: Bool[Tensor, " B"] | None = None,
    ) -> Float[Tensor, "B T W"] | None:
        """Encode the text, which is the same at every evaluation; None without a text encoder.

        Args:
            mel: Any mel of the batch, for its shape.
            mask: True for real frames; None: all frames are real.
            text_ids: Token ids, 0 is the filler; None: no text.
            drop_text: True for utterances whose text is replaced by fillers.
        """
        if self.text is None:
            return None
        frames: Tensor = self.text(text_ids, mask, (mel.shape[0], mel.shape[1]), drop_text)
        return frames

    def forward(
        self,
        x_t: Float[Tensor, "B T F"],
        t: Float[Tensor, " U"],
        condition: Float[Tensor, "B T C"],
        mask: Bool[Tensor, "B T"] | None = None,
        text_ids: Int[Tensor, "B L"] | None = None,
        drop_condition: Bool[Tensor, " B"] | None = None,
        drop_text: Bool[Tensor, " B"] | None = None,
        r: Float[Tensor, " U"] | None = None,
        text: Float[Tensor, "B T W"] | None = None,
        guidance: Float[Tensor, " G"] | None = None,
    ) -> Float[Tensor, "B T F"]:
        """Estimate frames; an utterance gets the same estimate alone and padded in a batch.

        Args:
            x_t: State of the flow, normalised log-mel.
            t: Flow time, 0 (noise) to 1 (speech); a single one, ``[1]``, is that of all utterances, and is embedded
                once.
            condition: Noisy log-mel, normalised, and beside it the other mels that the network is conditioned on.
            mask: True for real frames; None: all frames are real.
            text_ids: Token ids, 0 is the filler; None: no text.
            drop_condition: True for utterances whose condition is replaced by zeros.
            drop_text: True for utterances whose text is replaced by fillers.
            r: End of the interval whose average velocity is estimated, `t` to 1, for a network with `jumps`; None: `t`
                itself, which asks for the velocity.
            text: What `encode` returned for these token ids; None: they are encoded here.
            guidance: Scale of guidance as a share of the largest, 0..1, of each row or of all, ``[1]``, for a network
                that is `guided`; None: 0.

        Returns:
            The estimated frames; zero outside `mask`.
        """
        if drop_condition is not None:
            condition = condition.masked_fill(drop_condition[:, None, None], 0.0)
        parts = [x_t, condition]
        if self.text is not None:
            shape = (x_t.shape[0], x_t.shape[1])
            parts.append(self.text(text_ids, mask, shape, drop_text) if text is None else text)
        # The residual stream stays in float32 under autocast: 22 blocks add to it, and each sum in bfloat16 is rounded.
        x = mask_frames(self.input(torch.cat(parts, dim=-1)).float(), mask)
        x = x + self.position(x, mask)
        time = self.time(t)
        if self.span is not None:
            time = time + self.span(torch.zeros_like(t) if r is None else r - t)
        if self.guidance is not None:
            time = time + self.guidance(torch.zeros_like(t) if guidance is None else guidance)
        time = torch.nn.functional.silu(time)
        head_dim = self.config.dim // self.config.heads
        angles = rotary_angles(x.shape[1], head_dim, x.device)
        for block in self.blocks:
            if self.activation_checkpointing and self.training:
                x = checkpoint(block, x, time, mask, angles, use_reentrant=False)
            else:
                x = block(x, time, mask, angles)
        return mask_frames(self.final(x, time), mask)
