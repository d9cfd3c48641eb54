"""The log-mel spectrogram: model, vocoder and recipes all compute it here."""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Complex, Float
from torch import Tensor, nn

from flowse.audio.mel_config import MelConfig

_PIECE = 256  # frames whose spectra are computed together, 1 MB: as many as a core's cache holds


class LogMel(nn.Module):
    """Computes log-mels: centred, reflect-padded STFT magnitudes in HTK mel bins, then ``ln(max(·, floor))``.

    Example:
        >>> LogMel()(torch.zeros(1, 24_000)).shape
        torch.Size([1, 94, 100])
    """

    BLOCKS = 5
    """Groups of neighbouring bins whose filters are applied together where the frequencies of a group are few."""

    window: Tensor
    filters: Tensor
    bin_weights: Tensor

    def __init__(self, config: MelConfig | None = None) -> None:
        """Build the window and the filters.

        Args:
            config: The definition of the mel; the default definition if not given.
        """
        super().__init__()
        self.config = config or MelConfig()
        c = self.config
        filters = mel_filters(c)
        # The buffers are not in the state dict: they follow from the config, and a checkpoint must not contradict it.
        self.register_buffer("window", torch.hann_window(c.win_length, periodic=True), persistent=False)
        self.register_buffer("filters", filters, persistent=False)
        self.register_buffer("bin_weights", _bin_weights(filters), persistent=False)
        self._blocks = _blocks(filters, self.BLOCKS)

    def forward(self, waveform: Float[Tensor, "B N"]) -> Float[Tensor, "B T F"]:
        """Compute ``T = N // hop_length + 1`` frames.

        Args:
            waveform: Samples at ``config.sample_rate``, full scale ±1.

        Returns:
            Natural logarithms of mel magnitudes, at least ``config.log_floor``.

        Raises:
            ValueError: There are too few samples to reflect at the edges.
        """
        if waveform.device.type == "cpu" and not waveform.requires_grad and not torch.compiler.is_compiling():
            return self._piecewise(waveform)
        return self.from_stft(self.stft(waveform))

    def stft(self, waveform: Float[Tensor, "B N"]) -> Complex[Tensor, "B K T"]:
        """Compute the STFT that the mel is made of; it has ``K = n_fft // 2 + 1`` frequencies.

        Raises:
            ValueError: There are too few samples to reflect at the edges.
        """
        c = self.config
        self._require_enough(waveform)
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

    def _require_enough(self, waveform: Float[Tensor, "B N"]) -> None:
        c = self.config
        if waveform.shape[-1] <= c.n_fft // 2:
            raise ValueError(
                f"a log-mel needs more than {c.n_fft // 2} samples ({500 * c.n_fft / c.sample_rate:.0f} ms), "
                f"got {waveform.shape[-1]}: pad the waveform first"
            )

    def from_stft(self, spectrum: Complex[Tensor, "B K T"]) -> Float[Tensor, "B T F"]:
        """Compute the log-mel from the STFT that `stft` returned."""
        if spectrum.device.type == "cpu" and not spectrum.requires_grad and not torch.compiler.is_compiling():
            return self._from_stft_on_cpu(spectrum)
        mel = spectrum.abs().transpose(1, 2) @ self.filters
        return mel.clamp_min(self.config.floor).log()

    def _from_stft_on_cpu(self, spectrum: Complex[Tensor, "B K T"]) -> Float[Tensor, "B T F"]:
        """Compute the same, three times as fast: NumPy's magnitudes are vectorised, and most of the filters is zero."""
        mel = torch.empty(spectrum.shape[0], spectrum.shape[2], self.filters.shape[1])
        self._to_bins(spectrum.transpose(1, 2), mel)
        return mel.clamp_min_(self.config.floor).log_()

    def _piecewise(self, waveform: Float[Tensor, "B N"]) -> Float[Tensor, "B T F"]:
        """Compute the same from some frames at a time: their spectra stay in the processor's cache.

        A whole STFT is forty times as large as the samples, and most of its time goes into fresh pages of memory.
        """
        c = self.config
        self._require_enough(waveform)
        edge = c.n_fft // 2
        frames = nn.functional.pad(waveform, (edge, edge), mode="reflect").unfold(1, c.n_fft, c.hop_length)
        window = nn.functional.pad(self.window, ((c.n_fft - c.win_length) // 2, (c.n_fft - c.win_length + 1) // 2))
        mel = torch.empty(*frames.shape[:2], c.n_mels)
        windowed = torch.empty(min(_PIECE, frames.shape[1]), c.n_fft)
        for of_one, bins in zip(frames, mel, strict=True):
            for begin in range(0, len(of_one), _PIECE):
                piece = of_one[begin : begin + _PIECE]
                torch.mul(piece, window, out=windowed[: len(piece)])
                self._to_bins(torch.fft.rfft(windowed[: len(piece)]), bins[begin : begin + _PIECE])
        return mel.clamp_min_(c.floor).log_()

    def _to_bins(self, spectra: Complex[Tensor, "*B T K"], mel: Float[Tensor, "*B T F"]) -> None:
        """Write the mel magnitudes of spectra into `mel`."""
        magnitudes = torch.from_numpy(np.abs(spectra.numpy()))
        for frequencies, bins in self._blocks:
            torch.matmul(magnitudes[..., frequencies], self.filters[frequencies, bins], out=mel[..., bins])

    def istft(self, spectrum: Complex[Tensor, "B K T"], n_samples: int) -> Float[Tensor, "B N"]:
        """Invert `stft`: return the waveform of ``n_samples`` samples whose STFT is nearest to `spectrum`."""
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

    def frequency_gains(self, log_gain: Float[Tensor, "B T F"]) -> Float[Tensor, "B K T"]:
        """Turn gains of mel bins, in nepers, into factors for the frequencies of `stft`.

        The gain of a frequency is the mean over the mel bins whose triangles cover it, weighted by the triangles. A
        frequency that no triangle covers (0 Hz) takes the gain of its nearest neighbour.
        """
        return (log_gain @ self.bin_weights.T).transpose(1, 2).exp()

    def frames(self, n_samples: int) -> int:
        """Return the number of frames of ``n_samples`` samples (see `MelConfig.frames`)."""
        return self.config.frames(n_samples)


def mel_filters(config: MelConfig) -> Float[Tensor, "K F"]:
    """Return the triangles of the HTK mel scale, of height 1; they are torchaudio's ``melscale_fbanks``, bit for bit.

    Source: Young et al., The HTK Book, section 5.4: ``mel = 2595 log10(1 + f / 700)``.
    """
    frequencies = torch.linspace(0, config.sample_rate // 2, config.n_fft // 2 + 1)
    low, high = (2595.0 * math.log10(1.0 + hertz / 700.0) for hertz in (config.f_min, config.f_max))
    corners = 700.0 * (10.0 ** (torch.linspace(low, high, config.n_mels + 2) / 2595.0) - 1.0)
    widths = corners[1:] - corners[:-1]
    slopes = corners[None, :] - frequencies[:, None]
    falling, rising = -slopes[:, :-2] / widths[:-1], slopes[:, 2:] / widths[1:]
    return torch.minimum(falling, rising).clamp_min(0.0)


def _blocks(filters: Float[Tensor, "K F"], count: int) -> list[tuple[slice, slice]]:
    """Cut the bins into about `count` groups; return the frequencies that a group's triangles cover, and its bins."""
    size = -(-filters.shape[1] // count)
    blocks = []
    for begin in range(0, filters.shape[1], size):
        bins = slice(begin, min(begin + size, filters.shape[1]))
        covered = filters[:, bins].any(dim=1).nonzero().squeeze(1).tolist() or [0]
        blocks.append((slice(covered[0], covered[-1] + 1), bins))
    return blocks


def _bin_weights(filters: Float[Tensor, "K F"]) -> Float[Tensor, "K F"]:
    """Return, for every frequency, weights of the mel bins that add up to 1."""
    total = filters.sum(dim=1)
    covered = (total > 0).nonzero().squeeze(1)
    distance = (torch.arange(len(total))[:, None] - covered[None, :]).abs()
    nearest = covered[distance.argmin(dim=1)]
    return filters[nearest] / total[nearest, None]
