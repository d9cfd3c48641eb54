"""The log-mel spectrogram: the one definition that model, vocoder and recipes share."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torchaudio
from jaxtyping import Complex, Float
from torch import Tensor, nn

DB_PER_NEPER = 20 / math.log(10)
"""Log-mels are natural logarithms of magnitudes, in nepers; one is 8.7 dB."""


@dataclass(frozen=True, kw_only=True)
class MelConfig:
    """What a log-mel frame is; the defaults are those of ``charactr/vocos-mel-24khz``.

    Attributes:
        sample_rate: In Hz, of the waveform.
        n_fft: Length of the Fourier transform, in samples.
        win_length: Length of the periodic Hann window, in samples.
        hop_length: Distance between neighbouring frames, in samples.
        n_mels: Number of HTK mel bins.
        f_min: Lower edge of the first bin, in Hz.
        f_max: Upper edge of the last bin, in Hz.
        floor: Smallest mel magnitude; the logarithm is taken of no less.
    """

    sample_rate: int = 24_000
    n_fft: int = 1024
    win_length: int = 1024
    hop_length: int = 256
    n_mels: int = 100
    f_min: float = 0.0
    f_max: float = 12_000.0
    floor: float = 1e-5

    def __post_init__(self) -> None:
        """Refuse a definition that cannot be computed.

        Raises:
            ValueError: Naming the two values that contradict each other.
        """
        if self.win_length > self.n_fft:
            raise ValueError(f"win_length={self.win_length} exceeds n_fft={self.n_fft}")
        if not 0 <= self.f_min < self.f_max <= self.sample_rate / 2:
            raise ValueError(
                f"f_min={self.f_min}, f_max={self.f_max} must rise within 0..{self.sample_rate / 2} Hz "
                f"(half of sample_rate={self.sample_rate})"
            )
        if self.floor <= 0:
            raise ValueError(f"floor={self.floor} must be above 0: its logarithm is taken")

    @property
    def log_floor(self) -> float:
        """The value of silence, and of padding: ``ln(floor)``."""
        return math.log(self.floor)

    def frames(self, n_samples: int) -> int:
        """Number of frames ``T`` of ``n_samples`` samples: one at each hop, the first at sample 0."""
        return n_samples // self.hop_length + 1

    def samples(self, n_frames: int) -> int:
        """Number of samples ``N`` that a vocoder makes of ``n_frames`` frames; the least with that many."""
        return (n_frames - 1) * self.hop_length


LOG_FLOOR = MelConfig().log_floor
"""Log-mel of silence under the default definition, −11.51; padding has this value, never 0."""


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
