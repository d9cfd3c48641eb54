"""What a mask is trained to: the target's spectra at several resolutions; leaks and losses weigh more."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from flowse.audio.mel import LogMel
from flowse.audio.mel_config import DB_PER_NEPER, MelConfig
from flowse.audio.noisy_phase import MAX_GAIN_DB

COMPRESSION = 0.3
"""Power of magnitudes that are compared (Braun and Tashev, 2021)."""


@dataclass(frozen=True, kw_only=True)
class MaskLossConfig:
    """Weights of the terms.

    Attributes:
        sizes: Lengths of the Fourier transforms, in samples.
        magnitude: Of the squared error of compressed magnitudes.
        complex: Of the squared error of compressed spectra with their phases.
        mel: Of the L1 of log-mel, in nepers.
        range_db: That L1 sees nothing farther below the loudest target bin.
        leak: What is too loud where noise dominates counts so much more.
        loss: What is too quiet where speech dominates counts so much more.
    """

    sizes: tuple[int, ...] = (512, 1024, 2048)
    magnitude: float = 20.0
    complex: float = 3.0
    mel: float = 0.5
    range_db: float = 60.0
    leak: float = 1.0
    loss: float = 0.5


class MaskLoss(nn.Module):
    """Compares what a mask makes of a mixture with the target, as sound and as mel."""

    def __init__(self, config: MaskLossConfig, mel: MelConfig) -> None:
        """Build the transforms.

        Args:
            config: Weights.
            mel: The model's mel.
        """
        super().__init__()
        self.config = config
        self.log_mel = LogMel(mel)
        for size in config.sizes:
            self.register_buffer(f"window_{size}", torch.hann_window(size), persistent=False)

    def forward(
        self, noisy: Float[Tensor, "B N"], target: Float[Tensor, "B N"], log_gain: Float[Tensor, "B T F"]
    ) -> dict[str, Tensor]:
        """Return the terms, means over the batch, and "total", their weighted sum.

        Args:
            noisy: Mixture.
            target: What is wanted, sample-aligned.
            log_gain: The mask, in nepers, of the mixture's mel bins.
        """
        c, mel = self.config, self.log_mel
        spectrum = mel.stft(noisy)
        made = mel.istft(spectrum * mel.frequency_gains(log_gain.clamp_max(MAX_GAIN_DB / DB_PER_NEPER)), noisy.shape[1])
        terms = {"mel": self._mel(mel.from_stft(spectrum), mel(target), log_gain)}
        magnitudes, spectra = [], []
        for size in c.sizes:
            out, wanted, rest = (self._spectrum(x, size) for x in (made, target, noisy - target))
            (loud, unit), (loud_wanted, unit_wanted) = _compressed(out), _compressed(wanted)
            error = loud - loud_wanted
            weight = self._weight(error, wanted.abs() > rest.abs())
            magnitudes.append((weight * error.square()).mean())
            spectra.append((loud[..., None] * unit - loud_wanted[..., None] * unit_wanted).square().sum(-1).mean())
        terms["magnitude"] = torch.stack(magnitudes).mean()
        terms["complex"] = torch.stack(spectra).mean()
        terms["total"] = c.magnitude * terms["magnitude"] + c.complex * terms["complex"] + c.mel * terms["mel"]
        return terms

    def _weight(self, error: Tensor, speech: Tensor) -> Tensor:
        """Weigh noise that is let through and speech that is lost."""
        leaks, losses = (error > 0) & ~speech, (error < 0) & speech
        return 1 + self.config.leak * leaks + self.config.loss * losses

    def _mel(self, noisy: Tensor, target: Tensor, log_gain: Tensor) -> Tensor:
        """L1 of log-mel, as far down as it is heard."""
        c = self.config
        # Of a silent target, the mixture says what is loud.
        loudest = torch.maximum(target.amax(dim=(1, 2)), noisy.amax(dim=(1, 2)) - 15 / DB_PER_NEPER)
        least = (loudest - c.range_db / DB_PER_NEPER)[:, None, None]
        error = torch.maximum(noisy + log_gain, least) - torch.maximum(target, least)
        weight = self._weight(error.detach(), target > noisy - 6 / DB_PER_NEPER)
        return (weight * error.abs()).mean()

    def _spectrum(self, x: Tensor, size: int) -> Tensor:
        window: Tensor = getattr(self, f"window_{size}")
        # Full scale has about the same numbers at every size.
        spectrum: Tensor = torch.stft(x, size, size // 4, window=window, return_complex=True) * (32 / size**0.5)
        return spectrum


def _compressed(spectrum: Tensor) -> tuple[Tensor, Tensor]:
    """Return compressed magnitudes, and real and imaginary parts of unit phasors."""
    parts = torch.view_as_real(spectrum)
    power = parts.square().sum(-1) + 1e-8
    return power ** (COMPRESSION / 2), parts * power.rsqrt()[..., None]
