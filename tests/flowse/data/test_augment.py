"""Laws of augmentation: noisy and clean change alike, as a closed form says, and a seed decides the draw."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from flowse.audio.mel import LogMel
from flowse.audio.mel_config import MelConfig
from flowse.data.augment import Augmentation, draw_augmentation, mel_centres_hz
from flowse.data.augment_config import AugmentConfig

MEL = MelConfig()
FLAT = np.zeros(MEL.n_mels)
ALWAYS = AugmentConfig(probability=1.0)


def pair(frames: int = 50) -> Tensor:
    return torch.randn(2, frames, MEL.n_mels, generator=torch.Generator().manual_seed(1)) - 4


def tone(hz: float, seconds: float = 1.0) -> Tensor:
    time = torch.arange(round(seconds * MEL.sample_rate)) / MEL.sample_rate
    return torch.sin(2 * math.pi * hz * time)[None]


def test_factors_of_one_and_gains_of_zero_change_nothing() -> None:
    assert torch.equal(Augmentation(1.0, 1.0, FLAT)(pair(), 50, MEL), pair())


def test_gains_leave_the_difference_of_noisy_and_clean_unchanged() -> None:
    changed = Augmentation(1.0, 1.0, np.linspace(-1, 1, MEL.n_mels))(pair(), 50, MEL)
    before = pair()
    assert torch.allclose(changed[0] - changed[1], before[0] - before[1], atol=1e-5)
    assert torch.allclose((changed - before)[0, 0], torch.linspace(-1, 1, MEL.n_mels), atol=1e-5)


def test_silence_stays_silence() -> None:
    silent = torch.full((2, 20, MEL.n_mels), MEL.log_floor)
    for seed in range(20):
        change = draw_augmentation(seed, MEL.n_mels, ALWAYS)
        assert (change(silent, 15, MEL) == MEL.log_floor).all()


@pytest.mark.parametrize("factor", [0.87, 1.15])
def test_pitch_moves_a_tone_to_the_bin_of_the_scaled_frequency(factor: float) -> None:
    log_mel = LogMel(MEL)
    moved = Augmentation(1.0, factor, FLAT)(log_mel(tone(2000.0)).repeat(2, 1, 1), 94, MEL)
    wanted = log_mel(tone(2000.0 * factor))
    assert int(moved[0, 40].argmax()) == pytest.approx(int(wanted[0, 40].argmax()), abs=1)


def test_centre_frequencies_are_the_peaks_of_the_filters() -> None:
    filters = LogMel(MEL).filters
    hz = torch.linspace(0, MEL.sample_rate / 2, filters.shape[0])
    wide = range(60, MEL.n_mels)  # below, a filter is narrower than a bin of the Fourier transform
    peaks = torch.stack([hz[filters[:, index].argmax()] for index in wide])
    assert np.allclose(peaks.numpy(), mel_centres_hz(MEL)[60:], atol=MEL.sample_rate / MEL.n_fft)


@pytest.mark.parametrize("tempo", [0.85, 1.0, 1.2])
def test_tempo_stretches_a_ramp_exactly(tempo: float) -> None:
    change = Augmentation(tempo, 1.0, FLAT)
    source_frames = change.source_frames(40, 1000)
    ramp = torch.arange(float(source_frames))[None, :, None].expand(2, source_frames, MEL.n_mels)
    stretched = change(ramp, 40, MEL)
    assert stretched.shape == (2, 40, MEL.n_mels)
    assert torch.allclose(stretched[0, :, 3], torch.arange(40) * tempo, atol=1e-4)


def test_a_recording_too_short_for_the_tempo_keeps_all_its_frames() -> None:
    change = Augmentation(1.2, 1.0, FLAT)
    assert change.source_frames(40, 40) == 40
    ramp = torch.arange(40.0)[None, :, None].expand(2, 40, MEL.n_mels)
    assert torch.allclose(change(ramp, 40, MEL), ramp, atol=1e-5)
    assert Augmentation(0.85, 1.0, FLAT)(pair(1), 1, MEL).shape == (2, 1, MEL.n_mels)


def test_a_seed_decides_the_draw_and_draws_stay_in_their_ranges() -> None:
    drawn = [draw_augmentation(seed, MEL.n_mels, ALWAYS) for seed in range(300)]
    again = draw_augmentation(7, MEL.n_mels, ALWAYS)
    assert again.tempo == drawn[7].tempo
    assert np.array_equal(again.log_gains, drawn[7].log_gains)
    for name in ("tempo", "pitch"):
        values = [getattr(change, name) for change in drawn]
        low, high = getattr(ALWAYS, name)
        assert low <= min(values) < low + 0.02
        assert high - 0.02 < max(values) <= high
    assert max(np.abs(change.log_gains).max() for change in drawn) <= 12 / (20 / math.log(10))
    assert len({(change.tempo, change.pitch) for change in drawn}) == 300


def test_about_the_given_share_of_pairs_gets_another_tempo() -> None:
    half = dataclasses.replace(ALWAYS, probability=0.5)
    moved = [draw_augmentation(seed, MEL.n_mels, half).tempo != 1 for seed in range(400)]
    assert 0.4 < np.mean(moved) < 0.6
