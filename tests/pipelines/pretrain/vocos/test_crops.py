"""Laws of crops: batches depend on seed and step alone, and follow the configuration."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from pipelines.pretrain.vocos.crops import CropConfig, Crops, Group


def tone(hertz: float, seconds: float = 1.0) -> np.ndarray:
    return (0.3 * np.sin(2 * np.pi * hertz * np.arange(round(24_000 * seconds)) / 24_000)).astype(np.float32)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, hertz in (("speech/low/a.wav", 300), ("speech/high/b.flac", 6000), ("noise/n.wav", 2000)):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        sf.write(path, tone(hertz), 24_000)
    return tmp_path


def test_a_batch_depends_on_seed_and_step_alone(folder: Path) -> None:
    config = CropConfig(samples=2048, batch_size=6)
    first, second = (Crops.from_folder(folder, config, seed=1, weights={}) for _ in range(2))
    first.batch(0)
    np.testing.assert_array_equal(first.batch(7), second.batch(7))
    assert not np.array_equal(first.batch(7), first.batch(8))


def test_batches_have_the_configured_size_and_do_not_clip(folder: Path) -> None:
    crops = Crops.from_folder(folder, CropConfig(samples=2048, batch_size=5), seed=1, weights={})
    for step in range(20):
        batch = crops.batch(step)
        assert (batch.shape, batch.dtype) == ((5, 2048), np.float32)
        assert np.abs(batch).max() <= 0.9901


def test_a_group_of_weight_zero_is_never_drawn(folder: Path) -> None:
    config = CropConfig(samples=4096, batch_size=8, noise_share=0, mixture_share=0, speed_share=0)
    crops = Crops.from_folder(folder, config, seed=1, weights={"high": 0.0})
    loudest = np.abs(np.fft.rfft(crops.batch(0))).argmax(axis=1) * 24_000 / 4096
    assert (np.abs(loudest - 300) < 10).all()


def test_speed_changes_the_pitch_within_the_configured_range(folder: Path) -> None:
    config = CropConfig(samples=4096, batch_size=16, noise_share=0, mixture_share=0, speed_share=1, speed=(1.2, 1.3))
    crops = Crops.from_folder(folder, config, seed=1, weights={"high": 0.0})
    loudest = np.abs(np.fft.rfft(crops.batch(0) * np.hanning(4096))).argmax(axis=1) * 24_000 / 4096
    assert (loudest > 300 * 1.2 - 8).all()
    assert (loudest < 300 * 1.3 + 8).all()


def test_a_crop_never_spans_two_recordings() -> None:
    samples = np.concatenate([np.full(100, 1, np.float32), np.full(50, 2, np.float32)])
    group = Group("pair", samples, np.array([0, 100, 150]))
    rng = np.random.default_rng(0)
    for _ in range(200):
        piece = group.draw(rng, 60)
        assert set(piece[piece != 0]) in ({1.0}, {2.0})
        assert len(piece) == 60


def test_without_noise_there_are_no_mixtures(folder: Path) -> None:
    (folder / "noise" / "n.wav").unlink()
    crops = Crops.from_folder(folder, CropConfig(samples=1024, batch_size=2, mixture_share=1.0), 1, {})
    assert not crops.noise
    assert crops.batch(0).shape == (2, 1024)


def test_the_error_without_speech_names_the_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="speech"):
        Crops.from_folder(tmp_path, CropConfig(), 0, {})
