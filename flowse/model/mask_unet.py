"""The mask U-Net: it estimates a gain of at most 1 for every frame and mel bin, in a single pass.

Two-dimensional convolutions treat the mel as a picture, so that a harmonic learned at one pitch is recognised at every
pitch (U-Net: Ronneberger et al., 2015; for masks: Tan and Wang, 2018). Dilated convolutions along time follow at the
lowest resolution (Bai et al., 2018). A mask leaves clean speech unchanged with a gain of 1, where a network that
estimates mels would have to copy its input.
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
"""Smallest gain, in nepers (70 dB of attenuation): more is inaudible, and its gradient would never vanish."""
_OPEN = 2.0
"""Output of an untrained network before the logistic function: the gain is then nearly 1."""
_DILATIONS = 5


class MaskUNet(nn.Module):
    """Estimates log-gains of noisy log-mel: ``log(sigmoid(·))``, at least `LEAST_LOG_GAIN`.

    Only convolutions look at other frames. At the default size a gain depends on less than a second to either side. All
    convolutions see padding as zeros, so padding changes no gain.

    Example:
        >>> MaskUNet(MaskUNetConfig(), n_mels=100)(torch.randn(2, 50, 100)).shape
        torch.Size([2, 50, 100])
    """

    text = None
    """The network has no text encoder."""

    height: Tensor

    def __init__(self, config: MaskUNetConfig, n_mels: int) -> None:
        """Build the network; before training all gains are −1 dB.

        Args:
            config: Size of the network.
            n_mels: Number of mel bins ``F``.
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
            # Masking takes a third of the time on a CPU, so an all-true mask is dropped. On a GPU this test would cost
            # more than it saves.
            mask = None
        real = None if mask is None else mask[:, None, :, None]
        # The height of a bin is an input: the hiss of a fricative belongs high up, a hum low down.
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
        """Apply a block; with activation checkpointing, the backward pass computes its activations again."""
        if self.activation_checkpointing and self.training:
            recomputed: Tensor = checkpoint(block, x, mask, use_reentrant=False)
            return recomputed
        out: Tensor = block(x, mask)
        return out


def _conv(conv: nn.Module, x: Float[Tensor, "B C T F"], real: Bool[Tensor, "B 1 T 1"] | None) -> Tensor:
    """Convolve with padding set to zeros, like the samples beyond the end of an utterance that stands alone."""
    out: Tensor = conv(x if real is None else x.masked_fill(~real, 0.0))
    return out


class _ChannelNorm(nn.LayerNorm):
    """Normalises the channels of each frame and bin separately, independent of batch, length and padding."""

    def forward(self, x: Float[Tensor, "B C T F"]) -> Float[Tensor, "B C T F"]:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class _Residual(nn.Module):
    """Two 3 × 3 convolutions with a residual connection around both."""

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
    """A dilated depthwise convolution along time, then a wide layer, with a residual connection around both."""

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
