"""Laws of the vocoder's training: a killed run resumes with equal weights, and the export is a Vocos folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from flowse.audio.mel_config import MelConfig
from flowse.audio.vocoder import load_vocoder
from pipelines.pretrain.vocos.crops import CropConfig, Crops, Group
from pipelines.pretrain.vocos.losses import SpectralLossConfig
from pipelines.pretrain.vocos.training import NetworkConfig, TrainingConfig, VocoderTraining, export

CONFIG = TrainingConfig(
    network=NetworkConfig(dim=8, layers=1, expansion=2),
    loss=SpectralLossConfig(n_ffts=(512,), n_mels=(20,)),
    steps=4,
    adversarial_from=0.5,
    adversarial_samples=2048,
    warmup=2,
)


@pytest.fixture(scope="module")
def crops() -> Crops:
    voice = (0.2 * np.sin(2 * np.pi * 200 * np.arange(24_000) / 24_000)).astype(np.float32)
    group = Group("voice", voice, np.array([0, len(voice)]))
    return Crops(CropConfig(samples=16 * 256, batch_size=2), seed=0, speech=[group], noise=[])


def test_a_run_that_was_killed_and_resumed_has_the_weights_of_an_uninterrupted_run(
    tmp_path: Path, crops: Crops
) -> None:
    whole = VocoderTraining(CONFIG, crops)
    list(whole.run())
    broken = VocoderTraining(CONFIG, crops)
    for _ in range(3):
        broken.train_step()
    broken.save(tmp_path / "checkpoint.pt")
    resumed = VocoderTraining(CONFIG, crops)
    resumed.load(tmp_path / "checkpoint.pt")
    list(resumed.run())
    assert resumed.step == whole.step == 4
    for name, value in whole.ema.state_dict().items():
        torch.testing.assert_close(resumed.ema.state_dict()[name], value, msg=name)


def test_the_adversarial_phase_begins_at_the_configured_step(crops: Crops) -> None:
    training = VocoderTraining(CONFIG, crops)
    assert ["generator" in training.train_step() for _ in range(4)] == [False, False, True, True]


def test_the_loss_falls_in_training(crops: Crops) -> None:
    training = VocoderTraining(
        TrainingConfig(network=CONFIG.network, loss=CONFIG.loss, steps=60, adversarial_from=1.0, warmup=5), crops
    )
    first, *_, last = training.run(log_every=10)
    assert last.losses["log_mel"] < 0.8 * first.losses["log_mel"]


def test_the_learning_rate_warms_up_and_ends_low(crops: Crops) -> None:
    training = VocoderTraining(TrainingConfig(network=CONFIG.network, steps=100, warmup=10), crops)
    factors = []
    for training.step in range(101):
        factors.append(training.learning_rate_factor())
    assert factors[0] == pytest.approx(0.1)
    assert max(factors) == factors[9] == pytest.approx(1.0)
    assert factors[-1] == pytest.approx(0.02)


def test_a_loss_that_is_not_finite_stops_the_run(crops: Crops) -> None:
    training = VocoderTraining(CONFIG, crops)
    with torch.no_grad():
        training.model.head.out.bias.fill_(torch.nan)
    with pytest.raises(FloatingPointError, match="step 0"):
        training.train_step()


def test_an_export_can_be_loaded_and_decodes_like_the_trained_network(tmp_path: Path, crops: Crops) -> None:
    training = VocoderTraining(CONFIG, crops)
    training.train_step()
    export(training.ema, CONFIG, tmp_path)
    vocoder = load_vocoder(tmp_path, mel=MelConfig())
    log_mel = torch.full((1, 12, 100), -5.0)
    with torch.inference_mode():
        expected = training.ema.decode(log_mel.transpose(1, 2))
    torch.testing.assert_close(vocoder.decode(log_mel), expected, atol=1e-3, rtol=1e-2)
    assert {path.name for path in tmp_path.iterdir()} == {"config.yaml", "pytorch_model.bin"}
