"""Laws of the result: the selected checkpoint's weights and all files, and nothing of an unfinished training."""

import contextlib
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from flowse.errors import UserError
from flowse.model.spec import ModelSpec
from flowse.training.checkpoint import State, path_of
from flowse.training.history import History
from flowse.training.job import Job, prepare
from flowse.training.mixtures import Mixtures
from flowse.training.rank import Rank
from flowse.training.start import trained_system
from flowse.training.trained import Trained
from tests.small_shards import TINY


@pytest.fixture(scope="module")
def finished(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Job:
    job = prepare(TINY, Mixtures.read(shards), tmp_path_factory.mktemp("state"), seed=5)
    rank = Rank(job)
    rank.train(history=History(job, rank.trainer.state))
    return job


def test_an_unfinished_training_has_no_result(shards: Path, tmp_path: Path) -> None:
    job = prepare(TINY, Mixtures.read(shards), tmp_path)
    assert not job.is_finished
    with pytest.raises(UserError, match="without a finished checkpoint"):
        Trained.of(job)


def test_a_finished_training_of_another_identity_is_not_this_one(finished: Job) -> None:
    assert finished.is_finished
    assert not dataclasses.replace(finished, identity={**finished.identity, "dataset": "other"}).is_finished


def test_the_last_or_the_best_weights_are_selected(finished: Job) -> None:
    best = Trained.of(finished)
    assert best.step == best.state.best_step
    assert best.weights == path_of(finished.checkpoints, best.step)
    last = Trained.of(dataclasses.replace(finished, config=dataclasses.replace(TINY, select="last")))
    assert (last.step, last.state.step) == (12, 12)


def test_without_a_validation_the_last_weights_are_the_best(finished: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    never = State(step=12, epoch=0, samples=0, ema_updates=12, seed=0, finished="max_steps")
    monkeypatch.setattr("flowse.training.trained.read_state", lambda path: never)
    trained = Trained.of(finished)
    assert trained.step == 12
    assert "validation/best_step" not in trained.figures()


def test_the_files_are_weights_spec_dataset_history_and_curves(finished: Job, tmp_path: Path) -> None:
    trained = Trained.of(finished)

    @contextlib.contextmanager
    def write(name: str) -> Iterator[Path]:
        yield tmp_path / name

    trained.write(write)
    assert {path.name for path in tmp_path.iterdir()} == {
        "model.safetensors", "spec.json", "dataset.json", "history.parquet", "loss.png", "segments.json",
    }  # fmt: skip
    spec = ModelSpec.from_dict(json.loads((tmp_path / "spec.json").read_text()))
    assert spec == trained.spec
    weights = load_file(tmp_path / "model.safetensors")
    for name, value in trained_system(spec, trained.weights).state_dict().items():
        assert torch.equal(value, weights[name])
    table = pq.read_table(tmp_path / "history.parquet")
    assert table["step"].to_pylist() == [2, 4, 6, 8, 10, 12]
    assert table["validation_loss"].null_count == 3
    assert trained.figures()["train/last_loss"] == table["train_loss"].to_pylist()[-1]
