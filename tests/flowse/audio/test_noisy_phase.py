"""Laws of mel gains on the noisy spectrum: nothing changes where the mels agree, and no sound is invented."""

from __future__ import annotations

import math

import pytest
import torch

from flowse.audio.mel import LogMel
from flowse.audio.noisy_phase import MAX_GAIN_DB, apply_mel_gain


@pytest.fixture(scope="module")
def log_mel() -> LogMel:
    return LogMel()


@pytest.fixture(scope="module")
def noisy() -> torch.Tensor:
    return 0.1 * torch.randn(2, 7001, generator=torch.Generator().manual_seed(0))


def test_equal_mels_give_the_waveform_back(log_mel: LogMel, noisy: torch.Tensor) -> None:
    mel = log_mel(noisy)
    torch.testing.assert_close(apply_mel_gain(noisy, mel, mel, log_mel), noisy, atol=1e-4, rtol=0)


def test_a_constant_difference_is_a_constant_gain(log_mel: LogMel, noisy: torch.Tensor) -> None:
    mel = log_mel(noisy)
    quieter = apply_mel_gain(noisy, mel, mel - math.log(4), log_mel)
    torch.testing.assert_close(quieter, noisy / 4, atol=1e-5, rtol=0)


def test_no_frequency_is_raised_beyond_the_limit(log_mel: LogMel, noisy: torch.Tensor) -> None:
    mel = log_mel(noisy)
    louder = apply_mel_gain(noisy, mel, mel + 10, log_mel)
    torch.testing.assert_close(louder, noisy * 10 ** (MAX_GAIN_DB / 20), atol=1e-4, rtol=0)


def test_a_silenced_bin_is_silent_and_its_far_neighbours_are_not(log_mel: LogMel) -> None:
    time = torch.arange(12_000) / 24_000
    low, high = (0.1 * torch.sin(2 * math.pi * hertz * time)[None] for hertz in (500.0, 6000.0))
    mel = log_mel(low + high)
    wanted = mel.clone()
    wanted[..., 60:] = log_mel.config.log_floor
    filtered = apply_mel_gain(low + high, mel, wanted, log_mel)
    inner = slice(2048, -2048)
    assert (filtered - low)[:, inner].abs().max() < 1e-3


def test_lengths_that_disagree_are_refused(log_mel: LogMel, noisy: torch.Tensor) -> None:
    mel = log_mel(noisy)
    with pytest.raises(ValueError, match="7001 samples have 28 frames"):
        apply_mel_gain(noisy, mel[:, :-1], mel[:, :-1], log_mel)
