"""The log-mel spectrogram: the one definition that model, vocoder and recipes share."""

from __future__ import annotations

import torch
import torchaudio
from jaxtyping import Complex, Float
from torch import Tensor, nn

from flowse.audio.mel_config import MelConfig


class LogMel(nn.Module):
    """Waveform to log-mel: centred, reflect-padded STFT magnitudes in HTK bins, ``ln(max(·, floor))``."""

    window: Tensor
    filters: Tensor
    spreading: Tensor

    def __init__(self, config: MelConfig | None = None) -> None:
        """Build the window and the filters.

        Args:
            config: The definition; the default one if not given.
        """
        super().__init__()
        self.config = config or MelConfig()
        c = self.config
        filters = torchaudio.functional.melscale_fbanks(
            n_freqs=c.n_fft // 2 + 1,
            f_min=c.f_min,
            f_max=c.f_max,
            n_mels=c.n_mels,
            sample_rate=c.sample_rate,
            norm=None,
            mel_scale="htk",
        )
        # Not in the state dict: they follow from the config, and a checkpoint must not disagree with it.
        self.register_buffer("window", torch.hann_window(c.win_length, periodic=True), persistent=False)
        self.register_buffer("filters", filters, persistent=False)
        self.register_buffer("spreading", _spreading(filters), persistent=False)

    def forward(self, waveform: Float[Tensor, "B N"]) -> Float[Tensor, "B T F"]:
        """Compute ``T = N // hop_length + 1`` frames.

        Args:
            waveform: Samples at ``config.sample_rate``, full scale ±1.

        Returns:
            Natural logarithm of mel magnitudes, never under ``config.log_floor``.

        Raises:
            ValueError: If there are too few samples to reflect at the edges.
        """
        return self.of_spectrum(self.spectrum(waveform))

    def spectrum(self, waveform: Float[Tensor, "B N"]) -> Complex[Tensor, "B K T"]:
        """Compute the STFT that the mel is made of; ``K = n_fft // 2 + 1`` frequencies.

        Raises:
            ValueError: If there are too few samples to reflect at the edges.
        """
        c = self.config
        if waveform.shape[-1] <= c.n_fft // 2:
            raise ValueError(
                f"a log-mel needs more than {c.n_fft // 2} samples ({500 * c.n_fft / c.sample_rate:.0f} ms), "
                f"got {waveform.shape[-1]}: pad the waveform first"
            )
        return torch.stft(
            waveform,
            n_fft=c.n_fft,
            hop_length=c.hop_length,
            win_length=c.win_length,
            window=self.window,
            center=True,
            pad_mode="reflect",
            return_complex=True,
        )

    def of_spectrum(self, spectrum: Complex[Tensor, "B K T"]) -> Float[Tensor, "B T F"]:
        """Compute the log-mel of what `spectrum` returns."""
        mel = spectrum.abs().transpose(1, 2) @ self.filters
        return mel.clamp_min(self.config.floor).log()

    def waveform(self, spectrum: Complex[Tensor, "B K T"], n_samples: int) -> Float[Tensor, "B N"]:
        """Invert `spectrum`: the waveform whose STFT is nearest, of ``n_samples`` samples."""
        c = self.config
        return torch.istft(
            spectrum,
            n_fft=c.n_fft,
            hop_length=c.hop_length,
            win_length=c.win_length,
            window=self.window,
            center=True,
            length=n_samples,
        )

    def gains(self, log_gain: Float[Tensor, "B T F"]) -> Float[Tensor, "B K T"]:
        """Spread logarithmic gains of mel bins over the frequencies of `spectrum`; a factor for each.

        A frequency takes the mean of the bins whose triangles cover it, weighted by them; one that none
        covers (0 Hz) follows its nearest neighbour.
        """
        return (log_gain @ self.spreading.T).transpose(1, 2).exp()

    def frames(self, n_samples: int) -> int:
        """Number of frames of ``n_samples`` samples (see `MelConfig.frames`)."""
        return self.config.frames(n_samples)


def _spreading(filters: Float[Tensor, "K F"]) -> Float[Tensor, "K F"]:
    """Weights, summing to 1, of the mel bins at every frequency."""
    total = filters.sum(dim=1)
    covered = (total > 0).nonzero().squeeze(1)
    distance = (torch.arange(len(total))[:, None] - covered[None, :]).abs()
    nearest = covered[distance.argmin(dim=1)]
    return filters[nearest] / total[nearest, None]
