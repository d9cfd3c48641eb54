"""Enhancement without a vocoder: the gains between two mels, applied to the noisy waveform's spectrum."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from flowse.audio.mel import LogMel
from flowse.audio.mel_config import DB_PER_NEPER

MAX_GAIN_DB = 6.0
"""Most that a frequency is raised: where the enhanced mel is far louder, there is only noise to amplify."""


def apply_mel_gain(
    noisy: Float[Tensor, "B N"],
    noisy_log_mel: Float[Tensor, "B T F"],
    enhanced_log_mel: Float[Tensor, "B T F"],
    log_mel: LogMel | None = None,
) -> Float[Tensor, "B N"]:
    """Filter the noisy waveform so that its mel becomes the enhanced one, as far as gains alone can do that.

    Sample-aligned with its input and unable to invent a sound, unlike a vocoder; but the phase stays noisy,
    and so does what lies between the harmonics inside one mel bin.

    Args:
        noisy: The waveform that ``noisy_log_mel`` is of.
        noisy_log_mel: Its mel, not normalised.
        enhanced_log_mel: The mel wanted, not normalised.
        log_mel: The transform that both are of; the default one if not given.

    Returns:
        As many samples as went in. Equal mels give the input back.

    Raises:
        ValueError: If the waveform and the two mels do not have the same length.
    """
    log_mel = log_mel or LogMel().to(noisy.device)
    frames = log_mel.frames(noisy.shape[-1])
    if noisy_log_mel.shape != enhanced_log_mel.shape or noisy_log_mel.shape[1] != frames:
        raise ValueError(
            f"{noisy.shape[-1]} samples have {frames} frames, but the mels' shapes are "
            f"{tuple(noisy_log_mel.shape)} and {tuple(enhanced_log_mel.shape)}"
        )
    log_gain = (enhanced_log_mel - noisy_log_mel).clamp_max(MAX_GAIN_DB / DB_PER_NEPER)
    return log_mel.waveform(log_mel.spectrum(noisy) * log_mel.gains(log_gain), noisy.shape[-1])
