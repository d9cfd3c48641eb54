"""The text encoder: an embedding and ConvNeXt V2 blocks turn token ids into a vector for each mel frame."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from flowse.model.blocks import mask_frames, sinusoid


class GlobalResponseNorm(nn.Module):
    """Global response normalisation of ConvNeXt V2, over the real frames of each utterance."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(width))
        self.beta = nn.Parameter(torch.zeros(width))

    def forward(self, x: Float[Tensor, "B T W"], mask: Bool[Tensor, "B T"] | None) -> Float[Tensor, "B T W"]:
        """Scale each channel by its energy over time, relative to the mean over all channels."""
        energy = torch.linalg.vector_norm(mask_frames(x, mask), dim=1, keepdim=True)
        relative = energy / (energy.mean(dim=-1, keepdim=True) + 1e-6)
        scaled: Tensor = self.gamma * (x * relative) + self.beta + x
        return scaled


class ConvNeXtBlock(nn.Module):
    """Depthwise convolution along time, then a wide layer with GRN, with a residual connection around both."""

    def __init__(self, width: int, hidden: int, kernel: int = 7) -> None:
        super().__init__()
        self.depthwise = nn.Conv1d(width, width, kernel, padding=kernel // 2, groups=width)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.expand = nn.Linear(width, hidden)
        self.grn = GlobalResponseNorm(hidden)
        self.reduce = nn.Linear(hidden, width)

    def forward(self, x: Float[Tensor, "B T W"], mask: Bool[Tensor, "B T"] | None) -> Float[Tensor, "B T W"]:
        """Mix neighbouring frames, then channels; frames outside `mask` are zeros, like the frames beyond the end."""
        residual = x
        x = self.depthwise(mask_frames(x, mask).transpose(1, 2)).transpose(1, 2)
        x = F.gelu(self.expand(self.norm(x)))
        mixed: Tensor = residual + self.reduce(self.grn(x, mask))
        return mixed


def fit_text(ids: Int[Tensor, "B L"], frames: int) -> Int[Tensor, "B T"]:
    """Cut token ids to the mel's length, or pad them with fillers."""
    return F.pad(ids[:, :frames], (0, max(0, frames - ids.shape[1])))


class TextEncoder(nn.Module):
    """Turns token ids, padded or cut to the mel's length, into frames."""

    def __init__(self, vocabulary_size: int, width: int, blocks: int) -> None:
        """Build the encoder.

        Args:
            vocabulary_size: Number of symbols; ids run from 1 to this number, 0 is the filler.
            width: Channels of a frame.
            blocks: Number of ConvNeXt V2 blocks; each is twice as wide inside.
        """
        super().__init__()
        self.width = width
        self.embedding = nn.Embedding(vocabulary_size + 1, width)
        self.blocks = nn.ModuleList(ConvNeXtBlock(width, 2 * width) for _ in range(blocks))

    def forward(
        self,
        ids: Int[Tensor, "B L"] | None,
        mask: Bool[Tensor, "B T"] | None,
        shape: tuple[int, int],
        drop: Bool[Tensor, " B"] | None = None,
    ) -> Float[Tensor, "B T W"]:
        """Encode text.

        Args:
            ids: Token ids, padded with 0; None: no utterance has text.
            mask: True for real frames; text beyond them is cut, so that padding changes nothing.
            shape: ``(B, T)`` of the mel.
            drop: True for utterances whose text is replaced by fillers.
        """
        batch, frames = shape
        device = self.embedding.weight.device
        if ids is None:
            ids = torch.zeros(batch, frames, dtype=torch.long, device=device)
        elif ids.shape[1] != frames:
            ids = fit_text(ids, frames)
        if drop is not None:
            ids = ids.masked_fill(drop.unsqueeze(-1), 0)
        x = self.embedding(ids)
        x = x + sinusoid(torch.arange(frames, device=device, dtype=torch.float32), self.width).to(x.dtype)
        for block in self.blocks:
            x = block(x, mask)
        return mask_frames(x, mask)
