"""Laws of a training in this process: a few lines make a model, and the same lines resume it."""

import dataclasses
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from flowse.data.parquet import read_rows
from flowse.data.shards import IndexRow, Mixture, read_mixture
from flowse.errors import UserError
from flowse.training.checkpoint import CheckpointError, listed
from flowse.training.history import read_history
from flowse.training.ledger import read_segments
from flowse.training.mixtures import split_rows
from flowse.training.progress import Progress
from flowse.training.run import train
from flowse.training.skipped import BudgetSpent, Skipped
from flowse.training.start import starting_point
from pipelines.commands.lineage.workspace import events_of
from tests.small_shards import TINY, TINY_TRAINING, make_shards, whistle


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
    assert files == {
        ".state",
        "model.safetensors",
        "spec.json",
        "dataset.json",
        "history.parquet",
        "loss.png",
        "segments.json",
    }


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
        train(config, shards, tmp_path, seed=3)


def test_a_longer_training_goes_on_from_the_weights_that_are_there(shards: Path, tmp_path: Path) -> None:
    train(dataclasses.replace(TINY, max_steps=8), shards, tmp_path)
    reports: list[Progress] = []
    slower = dataclasses.replace(TINY.optim, lr=1e-3)
    trained = train(dataclasses.replace(TINY, optim=slower), shards, tmp_path, report=reports.append)
    assert [progress.step for progress in reports] == [10, 12]
    segments = read_segments(tmp_path / "segments.json")
    assert [(segment.from_step, segment.to_step, segment.finished) for segment in segments] == [
        (0, 8, "max_steps"),
        (8, 12, "max_steps"),
    ]
    assert segments == trained.state.segments
    assert [record["step"] for record in read_history(tmp_path / ".state")] == [2, 4, 6, 8, 10, 12]


def test_sigterm_ends_a_training_with_a_checkpoint_and_the_same_call_goes_on(shards: Path, tmp_path: Path) -> None:
    def terminate_after_step_6(progress: Progress) -> None:
        if progress.step == 6:
            os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(UserError, match="stopped after step 6, with a checkpoint"):
        train(TINY, shards, tmp_path / "a", report=terminate_after_step_6)
    assert signal.getsignal(signal.SIGTERM) is before
    resumed, whole = (train(TINY, shards, tmp_path / name) for name in ("a", "b"))
    assert resumed.state == whole.state
    for name, value in whole.system().state_dict().items():
        assert torch.allclose(value, resumed.system().state_dict()[name], atol=1e-5), name


def test_damaged_mixtures_are_left_out_and_listed_and_too_many_end_the_training(shards: Path, tmp_path: Path) -> None:
    copy = tmp_path / "shards"
    shutil.copytree(shards, copy)
    rows = split_rows(copy, "train")
    _flip(copy / rows[7].shard, rows[7].noisy_offset + rows[7].noisy_bytes // 2)
    trained = train(TINY, copy, tmp_path / "a")
    (left_out,) = trained.skipped.rows
    assert (left_out.key, left_out.kind, left_out.reason) == (rows[7].key, "unreadable", "damaged")
    assert rows[7].shard in left_out.detail
    assert next(iter(read_rows(tmp_path / "a" / "skipped.parquet", Skipped))).key == rows[7].key

    (copy / rows[0].shard).rename(tmp_path / "gone.tar")
    config = dataclasses.replace(TINY, max_steps=20)
    with pytest.raises(BudgetSpent, match=r"max_skipped_share=0.05.*train-00000.tar.*no such file"):
        train(config, copy, tmp_path / "a")
    (tmp_path / "gone.tar").rename(copy / rows[0].shard)
    assert train(dataclasses.replace(config, max_skipped_share=1.0), copy, tmp_path / "a").state.step == 20


def _flip(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 0xFF
    path.write_bytes(content)


def test_a_run_with_all_that_can_befall_it_ends_and_ends_with_the_same_bytes_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed, extended by half, given more data, with a flipped FLAC, a NaN and a rotten checkpoint in its way."""
    (tmp_path / "small").mkdir()
    (tmp_path / "grown").mkdir()
    small, grown = make_shards(tmp_path / "small"), make_shards(tmp_path / "grown", whistle)
    flipped, nan = split_rows(small, "train")[3], split_rows(small, "train")[11]
    _flip(small / flipped.shard, flipped.noisy_offset + flipped.noisy_bytes // 2)

    def read_with_nan(folder: Path, row: IndexRow) -> Mixture:
        mixture = read_mixture(folder, row)
        if folder == small and row.key == nan.key:
            mixture.noisy[700] = np.nan  # in a 16-bit file there is none; a broken processor makes one
        return mixture

    monkeypatch.setattr("flowse.training.mixtures.read_mixture", read_with_nan)

    class Killed(Exception):
        """Stands for whatever ends a process."""

    def kill_after_step_6(progress: Progress) -> None:
        if progress.step == 6:
            raise Killed

    ends = []
    config = dataclasses.replace(TINY, max_skipped_share=0.2)
    for name in ("a", "b"):
        folder = tmp_path / name
        with pytest.raises(Killed):
            train(config, small, folder, report=kill_after_step_6)
        train(config, small, folder)
        train(dataclasses.replace(config, max_steps=18), small, folder)
        (*_, newest) = listed(folder / ".state" / "checkpoints")
        _flip(newest / "model-00000.safetensors", 5000)
        trained = train(dataclasses.replace(config, max_steps=24), grown, folder)
        assert [(segment.from_step, segment.to_step) for segment in read_segments(folder / "segments.json")] == [
            (0, 12),
            (12, 16),
            (16, 24),
        ]
        first, second, third = (segment.dataset for segment in trained.state.segments)
        assert first == second != third
        # The lineage of the result names the data and all that befell it.
        events = events_of(folder)
        for what in (f"damaged {flipped.key}", f"non_finite_loss {nan.key}", "differs from its recorded hash"):
            assert sum(what in event for event in events) == 1, (what, events)
        assert len(events) == 3
        ends.append((folder / "model.safetensors").read_bytes())
    assert ends[0] == ends[1]
