"""Laws of the speaker recipe: the loss falls, a killed run resumes, and the ONNX export equals the network."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from flowse.metrics.speaker import SpeakerEncoder, filterbank
from flowse.seeding import generator
from pipelines.pretrain.speaker.crops import SPEEDS, CropConfig, Crops
from pipelines.pretrain.speaker.network import AngularMargin, Encoder, NetworkConfig
from pipelines.pretrain.speaker.training import SpeakerTraining, TrainingConfig, export

TINY = NetworkConfig(width=32, dilations=(1, 2), embedding=16, dropout=0.0)


@pytest.fixture(scope="module")
def audio(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with four "speakers", each with its own pitch, and a noise."""
    root = tmp_path_factory.mktemp("audio")
    rows = []
    for index, pitch in enumerate((110, 170, 240, 330)):
        time_s = np.arange(40_000) / 16_000
        voice = sum(np.sin(2 * np.pi * k * pitch * time_s) / k for k in range(1, 12))
        soundfile.write(root / f"s{index}.wav", 0.1 * voice, 16_000)
        rows.append({"path": f"s{index}.wav", "kind": "speech", "split": "train", "speaker": f"s{index}"})
    soundfile.write(root / "n.wav", 0.1 * generator(0).standard_normal(20_000), 16_000)
    rows.append({"path": "n.wav", "kind": "noise", "split": "train", "speaker": ""})
    with (root / "manifest.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, rows[0].keys())
        table.writeheader()
        table.writerows(rows)
    return root


def training(audio: Path, steps: int = 30, margin: float = 0.3) -> SpeakerTraining:
    crops = Crops.from_folder(audio, CropConfig(batch_size=6, seconds=(0.5, 0.7)), seed=3)
    return SpeakerTraining(TrainingConfig(network=TINY, steps=steps, warmup=2, margin=margin, ema_decay=0.9), crops)


def test_a_batch_depends_on_the_step_alone(audio: Path) -> None:
    crops = training(audio).crops
    assert crops.classes == 4 * len(SPEEDS)
    for tensor, again in zip(crops.batch(5), crops.batch(5), strict=True):
        assert torch.equal(tensor, again)
    features, speakers = crops.batch(5)
    assert features.shape[0] == len(set(speakers.tolist())) == 6  # every crop has another class
    assert not torch.equal(features[:, :40], crops.batch(6)[0][:, :40])


def test_the_loss_falls_in_training(audio: Path) -> None:
    run = training(audio, steps=60, margin=0.0)
    losses = [run.train_step() for _ in range(60)]
    assert np.mean(losses[-15:]) < 0.7 * np.mean(losses[:15])


def test_a_killed_run_resumes_as_if_it_had_not_stopped(audio: Path, tmp_path: Path) -> None:
    whole, cut = training(audio), training(audio)
    for _ in range(4):
        expected = whole.train_step()
    for _ in range(2):
        cut.train_step()
    cut.save(tmp_path / "c.pt")
    other = training(audio)
    other.load(tmp_path / "c.pt")
    assert other.step == 2
    torch.manual_seed(0)
    other.train_step()
    assert other.train_step() == pytest.approx(expected, rel=1e-3)


def test_the_onnx_export_computes_the_networks_embedding_at_any_length(tmp_path: Path) -> None:
    torch.manual_seed(0)
    encoder = Encoder(TINY).eval()
    export(encoder, 80, tmp_path / "e.onnx")
    loaded = SpeakerEncoder(tmp_path / "e.onnx")
    for samples in (6_000, 30_000):
        waveform = generator(samples).normal(0, 0.1, samples).astype(np.float32)
        with torch.no_grad():
            expected = encoder(torch.from_numpy(filterbank(waveform))[None])[0].numpy()
        np.testing.assert_allclose(loaded.embed(waveform, 16_000), expected / np.linalg.norm(expected), atol=1e-5)


def test_without_a_margin_the_loss_is_the_cross_entropy_of_cosines() -> None:
    torch.manual_seed(0)
    loss, embeddings, speakers = AngularMargin(8, 5), torch.randn(6, 8), torch.arange(6) % 5
    cosine = torch.nn.functional.cosine_similarity(embeddings[:, None], loss.directions[None], dim=2)
    loss.margin = 0.0
    plain = loss(embeddings, speakers).detach()
    assert torch.allclose(plain, torch.nn.functional.cross_entropy(30 * cosine, speakers), atol=1e-3)
    loss.margin = 0.3
    assert loss(embeddings, speakers).detach() > plain  # the margin raises the loss of the right class
