"""Laws of the log-mel: it equals that of Vocos above the floor, and the number of frames follows from the length."""

from __future__ import annotations

import math
import warnings

import pytest
import torch
import torchaudio

from flowse.audio.mel import LogMel, mel_filters
from flowse.audio.mel_config import LOG_FLOOR, MelConfig


@pytest.fixture(scope="module")
def log_mel() -> LogMel:
    return LogMel()


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return 0.1 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_the_log_mel_equals_that_of_vocos_above_the_floor(log_mel: LogMel) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from vocos.feature_extractors import MelSpectrogramFeatures

        theirs = MelSpectrogramFeatures(sample_rate=24_000, n_fft=1024, hop_length=256, n_mels=100, padding="center")
    waveform = noise(2, 24_000) * torch.logspace(-6, 0, 24_000)
    ours, reference = log_mel(waveform), theirs(waveform).transpose(1, 2)
    assert (reference < LOG_FLOOR).any()
    torch.testing.assert_close(ours, reference.clamp_min(LOG_FLOOR), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    "config",
    [
        MelConfig(),
        MelConfig(n_mels=80),
        MelConfig(sample_rate=16_000, n_fft=512, win_length=400, n_mels=40, f_min=20.0, f_max=7600.0),
    ],
)
def test_the_filters_are_torchaudios_bit_for_bit(config: MelConfig) -> None:
    theirs = torchaudio.functional.melscale_fbanks(
        config.n_fft // 2 + 1, config.f_min, config.f_max, config.n_mels, config.sample_rate
    )
    assert torch.equal(mel_filters(config), theirs)


@pytest.mark.parametrize("n_samples", [513, 767, 768, 769, 5119, 5120])
def test_frames_gives_the_number_of_frames_that_are_computed(log_mel: LogMel, n_samples: int) -> None:
    assert log_mel(torch.zeros(1, n_samples)).shape == (1, n_samples // 256 + 1, 100)
    assert log_mel.frames(n_samples) == n_samples // 256 + 1


def test_silence_is_the_floor(log_mel: LogMel) -> None:
    assert math.log(1e-5) == pytest.approx(LOG_FLOOR)
    torch.testing.assert_close(log_mel(torch.zeros(1, 2048)), torch.full((1, 9, 100), LOG_FLOOR))


@pytest.mark.parametrize("gain_db", [-20.0, 6.0])
def test_a_gain_adds_its_logarithm(log_mel: LogMel, gain_db: float) -> None:
    waveform = noise(1, 8000)
    louder = log_mel(waveform * 10 ** (gain_db / 20))
    torch.testing.assert_close(louder, log_mel(waveform) + gain_db / 20 * math.log(10), atol=1e-4, rtol=0)


def test_a_tone_is_loudest_in_the_bin_of_its_htk_mel(log_mel: LogMel) -> None:
    for hertz in (500.0, 2000.0, 9000.0):
        waveform = torch.sin(2 * math.pi * hertz * torch.arange(8000) / 24_000)[None]
        loudest = int(log_mel(waveform)[0, 10].argmax())
        expected = 2595 * math.log10(1 + hertz / 700) / (2595 * math.log10(1 + 12_000 / 700)) * 101 - 1
        assert abs(loudest - expected) <= 1


def test_too_few_samples_to_reflect_are_refused(log_mel: LogMel) -> None:
    with pytest.raises(ValueError, match="more than 512 samples"):
        log_mel(torch.zeros(1, 512))


def test_istft_inverts_stft(log_mel: LogMel) -> None:
    waveform = noise(2, 5000)
    back = log_mel.istft(log_mel.stft(waveform), 5000)
    torch.testing.assert_close(back, waveform, atol=1e-5, rtol=0)


def test_equal_gains_of_all_bins_give_that_gain_at_every_frequency(log_mel: LogMel) -> None:
    gains = log_mel.frequency_gains(torch.full((1, 3, 100), math.log(2.0)))
    torch.testing.assert_close(gains, torch.full((1, 513, 3), 2.0))


def test_a_checkpoint_holds_no_window_and_no_filters(log_mel: LogMel) -> None:
    assert not log_mel.state_dict()


@pytest.mark.parametrize("config", [MelConfig(), MelConfig(n_mels=7), MelConfig(n_fft=2048, n_mels=128)])
def test_the_fast_way_without_gradients_gives_the_same_mel(config: MelConfig) -> None:
    log_mel = LogMel(config)
    waveform = noise(2, 24_000) * torch.logspace(-6, 0, 24_000)
    slow = log_mel(waveform.clone().requires_grad_())
    torch.testing.assert_close(log_mel(waveform), slow.detach(), atol=2e-5, rtol=0)
    slow.sum().backward()
