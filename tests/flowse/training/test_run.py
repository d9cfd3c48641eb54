"""Laws of a training in this process: a few lines make a model, and the same lines resume it."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from flowse.training.checkpoint import CheckpointError
from flowse.training.history import read_history
from flowse.training.progress import Progress
from flowse.training.run import train
from flowse.training.start import starting_point
from tests.small_shards import TINY, TINY_TRAINING


def test_the_lines_of_the_readme_train_a_model_and_enhance_with_it(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "dataset").symlink_to(shards)
    monkeypatch.chdir(tmp_path)
    small = TINY_TRAINING
    noisy, sample_rate = np.random.default_rng(0).normal(0, 0.1, 24_000).astype(np.float32), 24_000

    from flowse.audio.vocoder import load_vocoder
    from flowse.enhancer import Enhancer
    from flowse.pretrained import resolve
    from flowse.training.config import TrainConfig
    from flowse.training.run import train

    trained = train(TrainConfig(**small), "dataset", "my-training", report=print)
    enhancer = Enhancer(trained.system(), trained.spec, load_vocoder(resolve("vocos-mel-24khz-small")))
    enhanced = enhancer.enhance(noisy, sample_rate)

    assert enhanced.shape == noisy.shape
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" steps")[0] for line in lines] == ["2/12", "4/12", "6/12", "8/12", "10/12", "12/12"]
    assert starting_point("my-training").spec == trained.spec
    files = {path.name for path in Path("my-training").iterdir()}
    assert files == {".state", "model.safetensors", "spec.json", "dataset.json", "history.parquet", "loss.png"}


def test_an_interrupted_training_is_resumed_and_ends_with_the_same_weights(shards: Path, tmp_path: Path) -> None:
    class Stopped(Exception):
        """Stands for whatever ends a process."""

    def stop_after_step_6(progress: Progress) -> None:
        if progress.step == 6:
            raise Stopped

    with pytest.raises(Stopped):
        train(TINY, shards, tmp_path / "a", report=stop_after_step_6)
    reports: list[Progress] = []
    resumed = train(TINY, shards, tmp_path / "a", report=reports.append)
    assert [progress.step for progress in reports] == [6, 8, 10, 12]
    assert [record["step"] for record in read_history(tmp_path / "a" / ".state")] == [2, 4, 6, 8, 10, 12]
    whole = train(TINY, shards, tmp_path / "b")
    for name, value in whole.system().state_dict().items():
        assert torch.allclose(value, resumed.system().state_dict()[name], atol=1e-5), name


def test_a_finished_training_is_not_done_again_and_no_other_takes_its_folder(shards: Path, tmp_path: Path) -> None:
    config = dataclasses.replace(TINY, max_steps=2)
    first = train(config, shards, tmp_path)
    reports: list[Progress] = []
    assert train(config, shards, tmp_path, report=reports.append) == first
    assert reports == []
    with pytest.raises(CheckpointError, match="another run"):
        train(dataclasses.replace(config, max_steps=4), shards, tmp_path)
