"""Reconstruction loss: distances of magnitude spectra at several resolutions, and the adversarial terms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torchaudio
from jaxtyping import Float
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class SpectralLossConfig:
    """Resolutions of the loss; short windows are what constrains the phase.

    Attributes:
        sample_rate: In Hz.
        n_ffts: Window lengths in samples; the hop is a quarter.
        n_mels: Mel bins at each of them.
        compressed_weight: Weight of the compressed-magnitude term beside the log-mel term.
        convergence_weight: Weight of the spectral convergence (relative error of linear magnitudes). Loud, low
            harmonics decide it: without it their phases are learned last, though they are what the ear follows.
        floor: Mel magnitudes below are all alike. Higher than the mel's own: down there is nothing to hear, and
            the empty band of upsampled recordings would outweigh the speech.
    """

    sample_rate: int = 24_000
    n_ffts: tuple[int, ...] = (2048, 1024, 512, 256, 128)
    n_mels: tuple[int, ...] = (160, 100, 80, 40, 20)
    compressed_weight: float = 0.5
    convergence_weight: float = 2.0
    floor: float = 1e-3


class SpectralLoss(nn.Module):
    """Mean over resolutions of a log-mel L1 and a relative L1 of cube-root-like compressed magnitudes.

    The log-mel term is what the ear hears of levels; the compressed term sees single bins (harmonics above
    the mel's resolution) but gives loud ones their due.
    """

    def __init__(self, config: SpectralLossConfig | None = None) -> None:
        """Build windows and filters for every resolution."""
        super().__init__()
        self.config = config or SpectralLossConfig()
        for n_fft, n_mels in zip(self.config.n_ffts, self.config.n_mels, strict=True):
            filters = torchaudio.functional.melscale_fbanks(
                n_fft // 2 + 1, 0.0, self.config.sample_rate / 2, n_mels, self.config.sample_rate
            )
            self.register_buffer(f"window_{n_fft}", torch.hann_window(n_fft))
            self.register_buffer(f"filters_{n_fft}", filters)

    def forward(self, made: Float[Tensor, "B N"], real: Float[Tensor, "B N"]) -> dict[str, Tensor]:
        """Compare waveforms of the same length; returns each term as a scalar, unweighted."""
        log_mel = made.new_zeros(())
        compressed = made.new_zeros(())
        convergence = made.new_zeros(())
        for n_fft in self.config.n_ffts:
            a, b = (self._magnitude(x, n_fft) for x in (made, real))
            filters: Tensor = getattr(self, f"filters_{n_fft}")
            mel_a, mel_b = ((x.transpose(1, 2) @ filters).clamp_min(self.config.floor).log() for x in (a, b))
            log_mel = log_mel + (mel_a - mel_b).abs().mean()
            root_a, root_b = a**0.4, b**0.4
            compressed = compressed + (root_a - root_b).abs().sum() / root_b.sum()
            size = torch.linalg.vector_norm(b, dim=(1, 2)).clamp_min(1e-2)
            convergence = convergence + (torch.linalg.vector_norm(a - b, dim=(1, 2)) / size).mean()
        count = len(self.config.n_ffts)
        return {
            "log_mel": log_mel / count,
            "compressed": compressed / count,
            "convergence": convergence / count,
        }

    def total(self, terms: dict[str, Tensor]) -> Tensor:
        """Weigh the terms of `forward` into one loss."""
        return (
            terms["log_mel"]
            + self.config.compressed_weight * terms["compressed"]
            + self.config.convergence_weight * terms["convergence"]
        )

    def _magnitude(self, x: Tensor, n_fft: int) -> Tensor:
        window: Tensor = getattr(self, f"window_{n_fft}")
        spectrum = torch.stft(x, n_fft, n_fft // 4, n_fft, window, return_complex=True)
        # The offset bounds the gradient of the root at silence.
        return (torch.view_as_real(spectrum).square().sum(-1) + 1e-7).sqrt()


def discriminator_loss(real: Sequence[Tensor], made: Sequence[Tensor]) -> Tensor:
    """Hinge loss of the discriminators, mean over them."""
    terms = [(1 - r).clamp_min(0).mean() + (1 + m).clamp_min(0).mean() for r, m in zip(real, made, strict=True)]
    return torch.stack(terms).mean()


def generator_loss(made: Sequence[Tensor]) -> Tensor:
    """Hinge loss of the generator, mean over the discriminators."""
    return torch.stack([(1 - m).clamp_min(0).mean() for m in made]).mean()


def feature_loss(real: Sequence[Tensor], made: Sequence[Tensor]) -> Tensor:
    """L1 of the discriminators' features relative to their size, mean over layers."""
    terms = [
        (r.detach() - m).abs().mean() / r.detach().abs().mean().clamp_min(1e-4) for r, m in zip(real, made, strict=True)
    ]
    return torch.stack(terms).mean()
