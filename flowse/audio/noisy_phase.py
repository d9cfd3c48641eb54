"""Enhancement without a vocoder: the gains between two mels are applied to the noisy waveform's spectrum."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from flowse.audio.mel import LogMel
from flowse.audio.mel_config import DB_PER_NEPER

MAX_GAIN_DB = 6.0
"""Largest gain of a frequency, in dB: where the enhanced mel is far louder, there is only noise to amplify."""


def apply_mel_gain(
    noisy: Float[Tensor, "B N"],
    noisy_log_mel: Float[Tensor, "B T F"],
    enhanced_log_mel: Float[Tensor, "B T F"],
    log_mel: LogMel | None = None,
) -> Float[Tensor, "B N"]:
    """Filter the noisy waveform so that its mel becomes the enhanced mel, as far as gains alone can do that.

    Unlike a vocoder's, the output is sample-aligned with the input and contains no invented sound. In exchange the
    phase stays noisy, and so does the sound between the harmonics inside a mel bin.

    Args:
        noisy: The noisy waveform.
        noisy_log_mel: Log-mel of `noisy`, not normalised.
        enhanced_log_mel: The log-mel that the output is to have, not normalised.
        log_mel: The transform that made both mels; the default transform if not given.

    Returns:
        As many samples as `noisy` has. If the two mels are equal, the output is the input.

    Raises:
        ValueError: The waveform and the two mels do not have the same length.
    """
    log_mel = log_mel or LogMel().to(noisy.device)
    frames = log_mel.frames(noisy.shape[-1])
    if noisy_log_mel.shape != enhanced_log_mel.shape or noisy_log_mel.shape[1] != frames:
        raise ValueError(
            f"{noisy.shape[-1]} samples have {frames} frames, but the mels' shapes are "
            f"{tuple(noisy_log_mel.shape)} and {tuple(enhanced_log_mel.shape)}"
        )
    log_gain = (enhanced_log_mel - noisy_log_mel).clamp_max(MAX_GAIN_DB / DB_PER_NEPER)
    return log_mel.istft(log_mel.stft(noisy) * log_mel.frequency_gains(log_gain), noisy.shape[-1])
