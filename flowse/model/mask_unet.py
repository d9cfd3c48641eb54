"""The mask U-Net: a gain of at most 1 for every frame and mel bin, in one pass; what predicts before the flow refines.

Neighbouring bins and frames are convolved as in a picture, so that a harmonic is learned once and known at any pitch
(U-Net: Ronneberger et al., 2015; for masks: Tan and Wang, 2018); dilated convolutions along time follow at the bottom
(Bai et al., 2018). A mask leaves speech alone where it is alone: there, a network that estimates mels has to copy.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from flowse.model.spec import MaskUNetConfig

LEAST_LOG_GAIN = -8.0
"""Smallest gain, in nepers: 70 dB down; beyond that nothing is heard, and a gradient would go on pulling."""
_OPEN = 2.0
"""What an untrained mask is, before the logistic function: nearly open."""
_DILATIONS = 5


class MaskUNet(nn.Module):
    """Log-gains of noisy log-mel: ``log(sigmoid(·))``, no less than `LEAST_LOG_GAIN`.

    Only convolutions look at other frames: at the default size a gain depends on less than a second to either side, and
    padding, which every convolution sees as zeros, never matters.
    """

    text = None
    """It has no text encoder."""

    height: Tensor

    def __init__(self, config: MaskUNetConfig, n_mels: int) -> None:
        """Build the network; untrained, its gains are −1 dB everywhere.

        Args:
            config: Size.
            n_mels: Mel bins ``F``.
        """
        super().__init__()
        self.config = config
        self.activation_checkpointing = False
        channels = config.channels
        bins = [n_mels]
        for _ in channels[1:]:
            bins.append((bins[-1] + 1) // 2)
        self.register_buffer("height", torch.linspace(-1, 1, n_mels), persistent=False)
        self.input = nn.Conv2d(2, channels[0], 5, padding=2)
        self.down = nn.ModuleList(_Residual(width) for width in channels)
        self.halve = nn.ModuleList(
            nn.Conv2d(above, below, 3, stride=(1, 2), padding=1) for above, below in pairwise(channels)
        )
        self.gather = nn.Linear(channels[-1] * bins[-1], config.dim)
        self.blocks = nn.ModuleList(
            _TimeBlock(config.dim, config.kernel, 2 ** (index % _DILATIONS)) for index in range(config.depth)
        )
        self.spread = nn.Linear(config.dim, channels[-1] * bins[-1])
        self.narrow = nn.ModuleList(nn.Conv2d(below, above, 1) for above, below in pairwise(channels))
        self.up = nn.ModuleList(_Residual(width) for width in channels[:-1])
        self.output = nn.Conv2d(channels[0], 1, 3, padding=1)
        nn.init.zeros_(self.output.weight)
        assert self.output.bias is not None
        nn.init.constant_(self.output.bias, _OPEN)

    def forward(self, noisy: Float[Tensor, "B T F"], mask: Bool[Tensor, "B T"] | None = None) -> Float[Tensor, "B T F"]:
        """Return the log-gain, in nepers, of every bin of normalised log-mel; 0 outside `mask`."""
        if mask is not None and mask.device.type == "cpu" and bool(mask.all()):
            # Clearing nothing takes a third of the time on a CPU; on a GPU, asking would take longer.
            mask = None
        real = None if mask is None else mask[:, None, :, None]
        # Where a bin stands: a fricative's hiss belongs high up, a hum low down.
        x = torch.stack((noisy, self.height.expand_as(noisy)), dim=1)
        x = _conv(self.input, x.contiguous(memory_format=torch.channels_last), real)
        levels = []
        for index, block in enumerate(self.down):
            x = self._run(block, x, real)
            if index < len(self.halve):
                levels.append(x)
                x = F.relu(_conv(self.halve[index], x, real))
        batch, channels, frames, bins = x.shape
        h = self.gather(x.permute(0, 2, 1, 3).reshape(batch, frames, channels * bins))
        for block in self.blocks:
            h = self._run(block, h, mask)
        x = x + self.spread(h).reshape(batch, frames, channels, bins).permute(0, 2, 1, 3)
        for narrow, block, level in zip(reversed(self.narrow), reversed(self.up), reversed(levels), strict=True):
            x = F.interpolate(narrow(x), size=level.shape[2:], mode="nearest") + level
            x = self._run(block, F.relu(x), real)
        log_gain = F.logsigmoid(_conv(self.output, x, real)[:, 0].float()).clamp_min(LEAST_LOG_GAIN)
        return log_gain if mask is None else log_gain.masked_fill(~mask.unsqueeze(-1), 0.0)

    def _run(self, block: nn.Module, x: Tensor, mask: Tensor | None) -> Tensor:
        """Apply a block; with activation checkpointing, what it computes is computed again on the way back."""
        if self.activation_checkpointing and self.training:
            again: Tensor = checkpoint(block, x, mask, use_reentrant=False)
            return again
        out: Tensor = block(x, mask)
        return out


def _conv(conv: nn.Module, x: Float[Tensor, "B C T F"], real: Bool[Tensor, "B 1 T 1"] | None) -> Tensor:
    """Convolve with padding as zeros, which is what lies beyond the end of an utterance that stands alone."""
    out: Tensor = conv(x if real is None else x.masked_fill(~real, 0.0))
    return out


class _ChannelNorm(nn.LayerNorm):
    """Normalises over the channels of each frame and bin by itself: independent of batch, length and padding."""

    def forward(self, x: Float[Tensor, "B C T F"]) -> Float[Tensor, "B C T F"]:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class _Residual(nn.Module):
    """Two 3 × 3 convolutions around which the input goes as it is."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.first_norm = _ChannelNorm(channels)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        self.second_norm = _ChannelNorm(channels)
        nn.init.constant_(self.second_norm.weight, 0.2)

    def forward(self, x: Float[Tensor, "B C T F"], real: Bool[Tensor, "B 1 T 1"] | None) -> Float[Tensor, "B C T F"]:
        h = F.relu(self.first_norm(_conv(self.first, x, real)))
        return F.relu(x + self.second_norm(_conv(self.second, h, real)))


class _TimeBlock(nn.Module):
    """A dilated convolution along time, a channel at a time, then a wide layer; residual."""

    def __init__(self, dim: int, kernel: int, dilation: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(dim, dim, kernel, padding=dilation * (kernel // 2), dilation=dilation, groups=dim)
        self.norm = nn.LayerNorm(dim)
        self.widen = nn.Linear(dim, 3 * dim)
        self.reduce = nn.Linear(3 * dim, dim)
        self.scale = nn.Parameter(torch.full((dim,), 0.1))

    def forward(self, x: Float[Tensor, "B T D"], mask: Bool[Tensor, "B T"] | None) -> Float[Tensor, "B T D"]:
        kept = x if mask is None else x.masked_fill(~mask.unsqueeze(-1), 0.0)
        h = self.conv(kept.transpose(1, 2)).transpose(1, 2)
        out: Tensor = x + self.scale * self.reduce(F.gelu(self.widen(self.norm(h))))
        return out
