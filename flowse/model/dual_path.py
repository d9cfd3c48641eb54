"""The dual-path mask: a gain for every frame and mel bin by recurrence along frequency and along time, in one pass.

Strided convolutions halve the frequency axis twice; between them and their mirror image, blocks alternate a two-way
LSTM along the bins of each frame with one along the frames of each bin, whose weights all bins share (dual-path
recurrence: Luo et al., 2020; after convolutions: DPCRN, Le et al., 2021, and its small kin GTCRN and UL-UNAS). It hears
the whole window at once: what the noise is, and where in it a voice goes on. A mask leaves speech alone where it is
alone: there, a network that estimates mels has to copy. LSTMs and not GRUs, as the published ones have: on a CPU they
are computed in one call, in two thirds of the time.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from torch.utils.checkpoint import checkpoint

from flowse.model.spec import DualPathConfig

LEAST_LOG_GAIN = -8.0
"""Smallest gain, in nepers: 70 dB down; beyond that nothing is heard, and a gradient would go on pulling."""
_OPEN = 2.0
"""What an untrained mask is, before the logistic function: nearly open."""


class DualPath(nn.Module):
    """Log-gains of noisy log-mel: ``log(sigmoid(·))``, no less than `LEAST_LOG_GAIN`.

    A gain depends on the whole utterance, before and after; padding, which convolutions see as zeros and the LSTMs not
    at all, never matters.

    Example:
        >>> DualPath(DualPathConfig(), n_mels=100)(torch.randn(2, 50, 100)).shape
        torch.Size([2, 50, 100])
    """

    text = None
    """It has no text encoder."""

    height: Tensor

    def __init__(self, config: DualPathConfig, n_mels: int) -> None:
        """Build the network; untrained, its gains are −1 dB everywhere.

        Args:
            config: Size.
            n_mels: Mel bins ``F``.
        """
        super().__init__()
        self.config = config
        self.activation_checkpointing = False
        full, half, quarter = config.channels
        self._bins = (n_mels, (n_mels + 1) // 2, ((n_mels + 1) // 2 + 1) // 2)
        self.register_buffer("height", torch.linspace(-1, 1, n_mels), persistent=False)
        self.input = nn.Conv2d(2, full, (3, 5), padding=(1, 2))
        self.halve = _Conv(full, half, (3, 5), stride=2)
        self.quarter = _Conv(half, quarter, (3, 5), stride=2)
        self.blocks = nn.ModuleList(
            _DualPathBlock(quarter, self._bins[2], config.frequency_dim, config.time_dim) for _ in range(config.blocks)
        )
        self.narrow_half = nn.Conv2d(quarter, 2 * half, 1)
        self.up_half = _Conv(2 * half, half, (3, 3))
        self.narrow_full = nn.Conv2d(half, 2 * full, 1)
        self.up_full = _Conv(2 * full, full, (3, 3))
        self.output = nn.Conv2d(full, 1, (1, 3), padding=(0, 1))
        nn.init.zeros_(self.output.weight)
        assert self.output.bias is not None
        nn.init.constant_(self.output.bias, _OPEN)

    def forward(self, noisy: Float[Tensor, "B T F"], mask: Bool[Tensor, "B T"] | None = None) -> Float[Tensor, "B T F"]:
        """Return the log-gain, in nepers, of every bin of normalised log-mel; 0 outside `mask`.

        Args:
            noisy: Normalised log-mel.
            mask: The real frames, at least one an utterance, all before its padding; None: all are.
        """
        if mask is not None and mask.device.type == "cpu" and bool(mask.all()):
            # Packing nothing takes twice the time on a CPU; on a GPU, asking would take longer.
            mask = None
        real = None if mask is None else mask[:, None, :, None]
        # Where a bin stands: a fricative's hiss belongs high up, a hum low down.
        x = torch.stack((noisy, self.height.expand_as(noisy)), dim=1).contiguous(memory_format=torch.channels_last)
        full = F.relu(self.input(x if real is None else x.masked_fill(~real, 0.0)))
        half = self.halve(full, real)
        x = self.quarter(half, real)
        for block in self.blocks:
            x = self._run(block, x, mask)
        x = self.up_half(torch.cat((_doubled(self.narrow_half(x), self._bins[1]), half), dim=1), real)
        x = self.up_full(torch.cat((_doubled(self.narrow_full(x), self._bins[0]), full), dim=1), real)
        log_gain = F.logsigmoid(self.output(x)[:, 0].float()).clamp_min(LEAST_LOG_GAIN)
        return log_gain if mask is None else log_gain.masked_fill(~mask.unsqueeze(-1), 0.0)

    def _run(self, block: nn.Module, x: Tensor, mask: Tensor | None) -> Tensor:
        """Apply a block; with activation checkpointing, what it computes is computed again on the way back."""
        if self.activation_checkpointing and self.training:
            again: Tensor = checkpoint(block, x, mask, use_reentrant=False)
            return again
        out: Tensor = block(x, mask)
        return out


def _doubled(x: Float[Tensor, "B C2 T F"], bins: int) -> Float[Tensor, "B C T G"]:
    """Lay pairs of channels out as neighbouring bins: twice the resolution from half the channels."""
    batch, channels, frames, _ = x.shape
    pairs = x.reshape(batch, channels // 2, 2, frames, -1).permute(0, 1, 3, 4, 2)
    return pairs.reshape(batch, channels // 2, frames, -1)[..., :bins]


class _Conv(nn.Module):
    """A convolution, normalised over the channels of each frame and bin, and rectified."""

    def __init__(self, inputs: int, outputs: int, kernel: tuple[int, int], stride: int = 1) -> None:
        super().__init__()
        padding = (kernel[0] // 2, kernel[1] // 2)
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride=(1, stride), padding=padding)
        self.norm = nn.LayerNorm(outputs)

    def forward(self, x: Float[Tensor, "B C T F"], real: Bool[Tensor, "B 1 T 1"] | None) -> Float[Tensor, "B D T G"]:
        h = self.conv(x if real is None else x.masked_fill(~real, 0.0))
        return F.relu(self.norm(h.permute(0, 2, 3, 1)).permute(0, 3, 1, 2))


class _DualPathBlock(nn.Module):
    """An LSTM along the bins of each frame, then one along the frames of each bin; each bidirectional and residual."""

    def __init__(self, channels: int, bins: int, frequency_dim: int, time_dim: int) -> None:
        super().__init__()
        self.along_bins = nn.LSTM(channels, frequency_dim, batch_first=True, bidirectional=True)
        self.bins_out = nn.Linear(2 * frequency_dim, channels)
        self.bins_norm = nn.LayerNorm((bins, channels))
        self.along_frames = nn.LSTM(channels, time_dim, batch_first=True, bidirectional=True)
        self.frames_out = nn.Linear(2 * time_dim, channels)
        self.frames_norm = nn.LayerNorm((bins, channels))

    def forward(self, x: Float[Tensor, "B C T G"], mask: Bool[Tensor, "B T"] | None) -> Float[Tensor, "B C T G"]:
        batch, channels, frames, bins = x.shape
        h = x.permute(0, 2, 3, 1)
        along = self.along_bins(h.reshape(batch * frames, bins, channels))[0]
        h = h + self.bins_norm(self.bins_out(along).reshape(batch, frames, bins, channels))
        columns = h.transpose(1, 2).reshape(batch * bins, frames, channels)
        along = self.frames_out(self._over_time(columns, mask, bins)).reshape(batch, bins, frames, channels)
        h = h + self.frames_norm(along.transpose(1, 2))
        out: Tensor = h.permute(0, 3, 1, 2)
        return out

    def _over_time(self, columns: Float[Tensor, "BG T C"], mask: Tensor | None, bins: int) -> Float[Tensor, "BG T D"]:
        if mask is None:
            out: Tensor = self.along_frames(columns)[0]
            return out
        # What goes backwards begins at the last real frame, not in the padding.
        lengths = mask.sum(dim=1).repeat_interleave(bins).cpu()
        packed = pack_padded_sequence(columns, lengths, batch_first=True, enforce_sorted=False)
        padded: Tensor = pad_packed_sequence(
            self.along_frames(packed)[0], batch_first=True, total_length=columns.shape[1]
        )[0]
        return padded
