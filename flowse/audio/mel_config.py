"""The definition of a log-mel frame, importable without torch."""

from __future__ import annotations

import math
from dataclasses import dataclass

DB_PER_NEPER = 20 / math.log(10)
"""Log-mels are natural logarithms of magnitudes, in nepers; a neper is 8.7 dB."""


@dataclass(frozen=True, kw_only=True)
class MelConfig:
    """The definition of a log-mel frame; the defaults are those of ``charactr/vocos-mel-24khz``.

    Attributes:
        sample_rate: Sample rate of the waveform, in Hz.
        n_fft: Length of the Fourier transform, in samples.
        win_length: Length of the periodic Hann window, in samples.
        hop_length: Distance between neighbouring frames, in samples.
        n_mels: Number of HTK mel bins.
        f_min: Lower edge of the first bin, in Hz.
        f_max: Upper edge of the last bin, in Hz.
        floor: Smallest mel magnitude; smaller magnitudes are raised to it before the logarithm is taken.
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
            ValueError: Two values contradict each other; the message names both.
        """
        for name, most in (
            ("sample_rate", 1_000_000),
            ("n_fft", 2**20),
            ("win_length", 2**20),
            ("hop_length", 2**20),
            ("n_mels", 4096),
        ):
            if not 1 <= getattr(self, name) <= most:
                raise ValueError(f"{name}={getattr(self, name)} must be in 1..{most}")
        if self.win_length > self.n_fft:
            raise ValueError(f"win_length={self.win_length} exceeds n_fft={self.n_fft}")
        if not 0 <= self.f_min < self.f_max <= self.sample_rate / 2:
            raise ValueError(
                f"f_min={self.f_min}, f_max={self.f_max} must rise within 0..{self.sample_rate / 2} Hz "
                f"(half of sample_rate={self.sample_rate})"
            )
        if not 0 < self.floor < math.inf:
            raise ValueError(f"floor={self.floor} must be above 0 and finite: its logarithm is taken")

    @property
    def log_floor(self) -> float:
        """The log-mel of silence and of padding: ``ln(floor)``."""
        return math.log(self.floor)

    def frames(self, n_samples: int) -> int:
        """Return the number of frames ``T`` of ``n_samples`` samples: one frame at each hop, the first at sample 0."""
        return n_samples // self.hop_length + 1

    def samples(self, n_frames: int) -> int:
        """Return the number of samples ``N`` that a vocoder makes of ``n_frames`` frames: the least with that many."""
        return (n_frames - 1) * self.hop_length


LOG_FLOOR = MelConfig().log_floor
"""The log-mel of silence under the default definition, −11.51; padding has this value, never 0."""
