"""Laws of Griffin-Lim: a waveform with the target mel stays as it is, and more steps come nearer to the target."""

from __future__ import annotations

import math

import pytest
import torch

from flowse.audio.griffin_lim import approach_mel
from flowse.audio.mel import LogMel


@pytest.fixture(scope="module")
def log_mel() -> LogMel:
    return LogMel()


@pytest.fixture(scope="module")
def voice() -> torch.Tensor:
    """Half a second of a gliding harmonic sound."""
    time = torch.arange(47 * 256) / 24_000
    phase = 2 * math.pi * torch.cumsum(120 + 60 * time, 0) / 24_000
    return sum((0.1 / k * torch.sin(k * phase) for k in range(1, 20)), torch.zeros(47 * 256))[None]


def test_a_waveform_that_has_the_target_mel_stays_as_it_is(log_mel: LogMel, voice: torch.Tensor) -> None:
    torch.testing.assert_close(approach_mel(voice, log_mel(voice), log_mel, 4), voice, atol=1e-4, rtol=0)


def test_zero_steps_change_nothing(log_mel: LogMel, voice: torch.Tensor) -> None:
    assert torch.equal(approach_mel(voice, log_mel(voice) - 1, log_mel, 0), voice)


def test_more_steps_come_nearer_to_the_target(log_mel: LogMel, voice: torch.Tensor) -> None:
    wanted = log_mel(voice)
    start = 0.05 * torch.randn(voice.shape, generator=torch.Generator().manual_seed(0))
    distances = [
        float((log_mel(approach_mel(start, wanted, log_mel, steps)) - wanted).abs().mean()) for steps in (0, 2, 8, 32)
    ]
    assert distances == sorted(distances, reverse=True)
    assert distances[-1] < distances[0] / 4


def test_lengths_that_disagree_are_refused(log_mel: LogMel, voice: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="12032 samples have 48 frames, not 47"):
        approach_mel(voice, log_mel(voice)[:, 1:], log_mel, 1)
