"""Losses of the vocoder: distances of magnitude spectra at several resolutions, and the adversarial terms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torchaudio
from jaxtyping import Float
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class SpectralLossConfig:
    """Resolutions and weights of the loss; the short windows constrain the phase.

    Attributes:
        sample_rate: In Hz.
        n_ffts: Window lengths in samples; the hop is a quarter of the window.
        n_mels: Number of mel bins at each window length.
        compressed_weight: Weight of the compressed-magnitude term beside the log-mel term.
        convergence_weight: Weight of the spectral convergence (relative error of linear magnitudes). Loud, low
            harmonics dominate this term; without it their phases are learned last, although the ear is most sensitive
            to them.
        floor: Smaller mel magnitudes are raised to this. It is higher than the floor of the model's mel: sound below is
            inaudible, and the empty band of upsampled recordings would outweigh the speech.
    """

    sample_rate: int = 24_000
    n_ffts: tuple[int, ...] = (2048, 1024, 512, 256, 128)
    n_mels: tuple[int, ...] = (160, 100, 80, 40, 20)
    compressed_weight: float = 0.5
    convergence_weight: float = 2.0
    floor: float = 1e-3


class SpectralLoss(nn.Module):
    """The mean over resolutions of three terms: log-mel L1, L1 of compressed magnitudes, and spectral convergence.

    The log-mel term measures levels as the ear does. The compressed term also measures single bins (harmonics that the
    mel does not resolve), and weighs loud bins more.
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

    def forward(self, generated: Float[Tensor, "B N"], real: Float[Tensor, "B N"]) -> dict[str, Tensor]:
        """Compare waveforms of equal length; return each term as a scalar, unweighted."""
        log_mel = generated.new_zeros(())
        compressed = generated.new_zeros(())
        convergence = generated.new_zeros(())
        for n_fft in self.config.n_ffts:
            a, b = (self._magnitude(x, n_fft) for x in (generated, real))
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
        """Return the weighted sum of the terms of `forward`."""
        return (
            terms["log_mel"]
            + self.config.compressed_weight * terms["compressed"]
            + self.config.convergence_weight * terms["convergence"]
        )

    def _magnitude(self, x: Tensor, n_fft: int) -> Tensor:
        window: Tensor = getattr(self, f"window_{n_fft}")
        spectrum = torch.stft(x, n_fft, n_fft // 4, n_fft, window, return_complex=True)
        # The offset bounds the gradient of the square root in silence.
        return (torch.view_as_real(spectrum).square().sum(-1) + 1e-7).sqrt()


def discriminator_loss(real: Sequence[Tensor], generated: Sequence[Tensor]) -> Tensor:
    """Return the hinge loss of the discriminators, averaged over them."""
    terms = [(1 - r).clamp_min(0).mean() + (1 + g).clamp_min(0).mean() for r, g in zip(real, generated, strict=True)]
    return torch.stack(terms).mean()


def generator_loss(generated: Sequence[Tensor]) -> Tensor:
    """Return the hinge loss of the generator, averaged over the discriminators."""
    return torch.stack([(1 - scores).clamp_min(0).mean() for scores in generated]).mean()


def feature_loss(real: Sequence[Tensor], generated: Sequence[Tensor]) -> Tensor:
    """Return the L1 distance of the discriminators' features relative to their size, averaged over layers."""
    terms = [
        (r.detach() - m).abs().mean() / r.detach().abs().mean().clamp_min(1e-4)
        for r, m in zip(real, generated, strict=True)
    ]
    return torch.stack(terms).mean()
