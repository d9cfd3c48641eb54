"""Griffin-Lim for mels: bend a waveform, step by step, towards a wanted log-mel spectrogram."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from flowse.audio.mel import LogMel

MOMENTUM = 0.99
"""Of the fast variant (Perraudin, Balazs & Søndergaard 2013, whose best value it is)."""

MAX_LOG_GAIN = 4.0
"""Most that one step changes a frequency, in nepers: more would amplify rounding where nothing sounds."""


def approach_mel(
    waveform: Float[Tensor, "B N"], wanted: Float[Tensor, "B T F"], log_mel: LogMel, steps: int
) -> Float[Tensor, "B N"]:
    """Take steps of fast Griffin-Lim towards a mel.

    Each step replaces the magnitudes by those of the present waveform times the gains that its mel lacks, keeps
    the phases, and goes back to a waveform. Unlike the classic algorithm on inverted mels, the fine structure
    inside a mel bin is the waveform's own: what a vocoder got right stays.

    Args:
        waveform: Where to begin, a vocoder's output as a rule.
        wanted: The mel to approach, not normalised; as many frames as the waveform has.
        log_mel: The transform that it is of.
        steps: Number of steps; with 0 the waveform comes back as it is.

    Raises:
        ValueError: If the waveform and the mel do not have the same length.
    """
    n_samples = waveform.shape[-1]
    if log_mel.frames(n_samples) != wanted.shape[1]:
        raise ValueError(f"{n_samples} samples have {log_mel.frames(n_samples)} frames, not {wanted.shape[1]}")
    previous: Tensor | None = None
    for _ in range(steps):
        spectrum = log_mel.spectrum(waveform)
        lacking = (wanted - log_mel.of_spectrum(spectrum)).clamp(-MAX_LOG_GAIN, MAX_LOG_GAIN)
        magnitude = spectrum.abs() * log_mel.gains(lacking)
        ahead = spectrum if previous is None else spectrum - MOMENTUM / (1 + MOMENTUM) * previous
        previous = spectrum
        waveform = log_mel.waveform(ahead * (magnitude / ahead.abs().clamp_min(1e-8)), n_samples)
    return waveform
