"""Griffin-Lim for mels: change a waveform, step by step, so that its log-mel approaches a target log-mel."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from flowse.audio.mel import LogMel

MOMENTUM = 0.99
"""Momentum of fast Griffin-Lim: the best value in Perraudin, Balazs & Søndergaard (2013)."""

MAX_LOG_GAIN = 4.0
"""Largest gain of a frequency in one step, in nepers: a larger gain would amplify rounding errors in silence."""


def approach_mel(
    waveform: Float[Tensor, "B N"], target: Float[Tensor, "B T F"], log_mel: LogMel, steps: int
) -> Float[Tensor, "B N"]:
    """Take steps of fast Griffin-Lim towards a target mel.

    Each step multiplies the magnitudes of the waveform's STFT by the gains that its mel lacks, keeps the phases, and
    inverts the STFT. The classic algorithm, which inverts the mel first, loses the fine structure inside a mel bin;
    this algorithm keeps that of the waveform, so what a vocoder got right stays.

    Args:
        waveform: The waveform to begin with, usually a vocoder's output.
        target: The log-mel to approach, not normalised; it has as many frames as the waveform.
        log_mel: The transform that made `target`.
        steps: Number of steps; 0 returns the waveform unchanged.

    Raises:
        ValueError: The waveform and the mel do not have the same length.
    """
    n_samples = waveform.shape[-1]
    if log_mel.frames(n_samples) != target.shape[1]:
        raise ValueError(f"{n_samples} samples have {log_mel.frames(n_samples)} frames, not {target.shape[1]}")
    previous: Tensor | None = None
    for _ in range(steps):
        spectrum = log_mel.stft(waveform)
        log_gain = (target - log_mel.from_stft(spectrum)).clamp(-MAX_LOG_GAIN, MAX_LOG_GAIN)
        magnitude = spectrum.abs() * log_mel.frequency_gains(log_gain)
        accelerated = spectrum if previous is None else spectrum - MOMENTUM / (1 + MOMENTUM) * previous
        previous = spectrum
        waveform = log_mel.istft(accelerated * (magnitude / accelerated.abs().clamp_min(1e-8)), n_samples)
    return waveform
