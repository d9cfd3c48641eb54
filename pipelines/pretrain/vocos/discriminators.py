"""Discriminators small enough for a CPU: some judge spectrograms, others the waveform folded by a period."""

from __future__ import annotations

from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import leaky_relu, pad
from torch.nn.utils.parametrizations import weight_norm

Judgement = tuple[Tensor, list[Tensor]]
"""Scores at many places, positive for real waveforms, and the features of every layer."""


class SpectrumDiscriminator(nn.Module):
    """Judges the real and imaginary parts of a compressed spectrogram."""

    window: Tensor

    def __init__(self, n_fft: int, channels: int) -> None:
        """Build layers that downsample the frequency axis by 16."""
        super().__init__()
        self.n_fft = n_fft
        c = channels
        self.layers = nn.ModuleList(
            weight_norm(layer)
            for layer in (
                nn.Conv2d(2, c, (3, 9), (1, 4), padding=(1, 4)),
                nn.Conv2d(c, 2 * c, (3, 9), (1, 2), padding=(1, 4)),
                nn.Conv2d(2 * c, 2 * c, (3, 9), (1, 2), padding=(1, 4)),
                nn.Conv2d(2 * c, 2 * c, (3, 3), padding=1),
            )
        )
        self.score = weight_norm(nn.Conv2d(2 * c, 1, 3, padding=1))
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)

    def forward(self, waveform: Float[Tensor, "B N"]) -> Judgement:
        """Judge waveforms at every patch of time and frequency."""
        with torch.autocast("cpu", enabled=False):
            spectrum = torch.stft(
                waveform.float(), self.n_fft, self.n_fft // 4, self.n_fft, self.window, return_complex=True
            )
            parts = torch.view_as_real(spectrum)
            power = parts.square().sum(-1, keepdim=True) + 1e-6
            # |S|^0.4 with the original phase: in linear magnitude the loud bins would dominate.
            x = (parts * power**-0.3).permute(0, 3, 2, 1)
        features: list[Tensor] = []
        for layer in self.layers:
            x = leaky_relu(layer(x), 0.1)
            features.append(x)
        return self.score(x), features


class PeriodDiscriminator(nn.Module):
    """Judges the waveform folded into columns ``period`` samples apart."""

    def __init__(self, period: int, channels: int) -> None:
        """Build layers that downsample the time axis by 81."""
        super().__init__()
        self.period = period
        widths = [1, channels, 4 * channels, 8 * channels, 16 * channels]
        self.layers = nn.ModuleList(
            weight_norm(nn.Conv2d(a, b, (5, 1), (3, 1), padding=(2, 0))) for a, b in pairwise(widths)
        )
        self.layers.append(weight_norm(nn.Conv2d(widths[-1], widths[-1], (5, 1), padding=(2, 0))))
        self.score = weight_norm(nn.Conv2d(widths[-1], 1, (3, 1), padding=(1, 0)))

    def forward(self, waveform: Float[Tensor, "B N"]) -> Judgement:
        """Judge waveforms at every place of the folded waveform."""
        x = pad(waveform, (0, -waveform.shape[-1] % self.period))
        x = x.reshape(len(x), 1, -1, self.period)
        features: list[Tensor] = []
        for layer in self.layers:
            x = leaky_relu(layer(x), 0.1)
            features.append(x)
        return self.score(x), features


class Discriminators(nn.Module):
    """All discriminators together."""

    def __init__(
        self,
        n_ffts: tuple[int, ...] = (1024, 512),
        periods: tuple[int, ...] = (3, 7),
        channels: int = 16,
    ) -> None:
        """Build a discriminator for each window length and each period."""
        super().__init__()
        self.members = nn.ModuleList(
            [SpectrumDiscriminator(n_fft, channels) for n_fft in n_ffts]
            + [PeriodDiscriminator(period, channels) for period in periods]
        )

    def forward(self, waveform: Float[Tensor, "B N"]) -> tuple[list[Tensor], list[Tensor]]:
        """Return the scores of every discriminator, and the features of all of them in one list, in 32 bits."""
        scores, features = [], []
        for member in self.members:
            score, layers = member(waveform)
            scores.append(score.float())
            features += [layer.float() for layer in layers]
        return scores, features
