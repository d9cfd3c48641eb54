"""Laws of a rank: it validates and draws examples where it should, starts from earlier weights, reads a mel cache."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from flowse.errors import UserError
from flowse.export import load_system
from flowse.flow.config import FlowConfig
from flowse.flow.sampling import Sampling
from flowse.model.spec import DualPathConfig
from flowse.training.checkpoint import latest, load
from flowse.training.config import TrainConfig
from flowse.training.history import History, read_history, read_progress
from flowse.training.job import Job, prepare
from flowse.training.lora import is_adapter
from flowse.training.lora_config import LoraConfig
from flowse.training.mixtures import Mixtures
from flowse.training.progress import Progress
from flowse.training.rank import Rank
from flowse.training.run import train
from flowse.training.start import Start, trained_system
from flowse.training.trained import Trained
from tests.small_shards import TINY, make_shards, whistle


def job(shards: Path, folder: Path, config: TrainConfig = TINY) -> Job:
    return prepare(config, Mixtures.read(shards), folder, seed=5)


def newest_checkpoint(trained: Job) -> Path:
    path = latest(trained.checkpoints)
    assert path is not None
    return path


def test_a_rank_alone_logs_and_validates_at_its_intervals(shards: Path, tmp_path: Path) -> None:
    reports: list[Progress] = []
    Rank(job(shards, tmp_path)).train(reports.append)
    assert [progress.step for progress in reports] == [2, 4, 6, 8, 10, 12]
    assert [progress.validation is not None for progress in reports] == [False, True] * 3


def test_its_history_has_every_report_and_the_examples_of_every_validation(shards: Path, tmp_path: Path) -> None:
    rank = Rank(job(shards, tmp_path, dataclasses.replace(TINY, examples=1)))
    rank.train(history=History(rank.job, rank.trainer.state))
    assert [record["step"] for record in read_history(tmp_path)] == [2, 4, 6, 8, 10, 12]
    drawn = sorted(path.parent.name for path in (tmp_path / "examples").glob("*/*.png"))
    assert drawn == ["step-00000004", "step-00000008", "step-00000012"]


def test_some_steps_are_profiled_if_that_is_asked_for(shards: Path, tmp_path: Path) -> None:
    Rank(job(shards, tmp_path, dataclasses.replace(TINY, profile_steps=2, max_steps=8))).train()
    recorded = json.loads((tmp_path / "profile.json").read_text())
    assert {event["name"] for event in recorded["traceEvents"]} & {"ProfilerStep#5", "ProfilerStep#6"}


def test_fine_tuning_starts_from_a_checkpoint_and_leaves_frozen_weights(shards: Path, tmp_path: Path) -> None:
    first = job(shards, tmp_path / "first")
    Rank(first).train()
    start = newest_checkpoint(first)
    config = dataclasses.replace(TINY, init_from=str(start), freeze=("network.blocks.0.*",), max_steps=4)
    second = job(shards, tmp_path / "second", config)
    assert second.spec == first.spec
    rank = Rank(second)
    before = load(start).ema
    for name, value in rank.trainer.system.state_dict().items():
        assert torch.equal(value, before[name])
    rank.train()
    for name, value in rank.trainer.system.state_dict().items():
        assert torch.equal(value, before[name]) == name.startswith("network.blocks.0."), name


def test_fine_tuning_the_last_block_improves_on_another_domain_of_noise(shards: Path, tmp_path: Path) -> None:
    base = dataclasses.replace(TINY, objective="regression", max_steps=60, validate_every=60)
    first = job(shards, tmp_path / "base", base)
    Rank(first).train()
    other = make_shards(tmp_path, whistle)
    tuned = dataclasses.replace(
        base,
        init_from=str(newest_checkpoint(first)),
        freeze=("network.blocks.0.*", "network.input.*", "network.position.*"),
        optim=dataclasses.replace(base.optim, lr=5e-4),
        max_steps=40,
        validate_every=40,
    )
    rank = Rank(job(other, tmp_path / "tuned", tuned))
    before = rank.trainer.validate()["loss"]
    reports: list[Progress] = []
    rank.train(reports.append)
    assert reports[-1].validation is not None
    assert reports[-1].validation["loss"] < 0.8 * before


@pytest.mark.parametrize("predictor", ["dit", "dual_path"])
def test_a_regression_model_becomes_the_predictor_that_the_flow_refines(
    shards: Path, tmp_path: Path, predictor: str
) -> None:
    mask = DualPathConfig(channels=(4, 4, 6), blocks=1, frequency_dim=4, time_dim=4)
    regression = dataclasses.replace(TINY, objective="regression", predictor=predictor, dual_path=mask)
    first = job(shards, tmp_path / "a", regression)
    Rank(first).train()
    start = newest_checkpoint(first)
    config = dataclasses.replace(
        TINY,
        init_from=str(start),
        freeze=("predictor.*",),
        model=dataclasses.replace(TINY.model, dim=64, depth=1),
        flow=FlowConfig(source="predicted", sigma=0.2),
        max_steps=4,
        examples=1,
    )
    rank = Rank(job(shards, tmp_path / "b", config))
    assert rank.examples is not None
    noisy, lengths = rank.examples.noisy, rank.examples.lengths
    regressed, _ = trained_system(first.spec, start).enhance(noisy, lengths)

    def predicted() -> torch.Tensor:
        return rank.trainer.system.enhance(noisy, lengths, sampling=Sampling(steps=0))[0]

    assert torch.equal(predicted(), regressed)
    rank.train()
    assert torch.equal(predicted(), regressed)
    refined, _ = rank.trainer.system.enhance(noisy, lengths, sampling=Sampling(steps=2))
    assert not torch.allclose(refined, regressed)


def test_a_mel_cache_is_built_once_and_trains_what_the_shards_train(shards: Path, tmp_path: Path) -> None:
    config = dataclasses.replace(TINY, mel_cache=True, mel_cache_folder=str(tmp_path / "mels"), max_steps=2)
    cached: list[Progress] = []
    Rank(job(shards, tmp_path / "a", config)).train(cached.append)
    (built,) = (tmp_path / "mels").glob("*.npy")  # one shard of split train
    begun = built.stat().st_ino
    assert read_progress(tmp_path / "a")["cached"] == 1
    plain: list[Progress] = []
    Rank(job(shards, tmp_path / "b", dataclasses.replace(config, mel_cache=False))).train(plain.append)
    # The same mixtures; only the ends of crops differ.
    assert cached[0].losses["loss"] == pytest.approx(plain[0].losses["loss"], rel=0.05)
    # Whatever fits into the cache, and whoever reads: the same mels.
    nowhere = {"mel_cache_gb": 0.0, "mel_cache_folder": str(tmp_path / "empty")}
    for name, other in {"none": nowhere, "processes": {"loader_processes": 2}}.items():
        found: list[Progress] = []
        Rank(job(shards, tmp_path / name, dataclasses.replace(config, **other))).train(found.append)
        assert [progress.losses for progress in found] == [progress.losses for progress in cached]
    Rank(job(shards, tmp_path / "a", config))
    assert built.stat().st_ino == begun


@pytest.fixture(scope="module")
def base(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of a training."""
    folder = tmp_path_factory.mktemp("base")
    train(TINY, shards, folder / "model", seed=5)
    return folder / "model"


def adapting(base: Path, **changes: Any) -> TrainConfig:
    lora = LoraConfig(rank=4, alpha=8.0)
    return dataclasses.replace(TINY, **{"init_from": str(base), "lora": lora, "max_steps": 8, **changes})


def test_adapters_leave_the_base_and_checkpoints_hold_them_alone(shards: Path, base: Path, tmp_path: Path) -> None:
    given = job(shards, tmp_path, adapting(base, examples=1))
    rank = Rank(given)
    assert rank.examples is not None
    plain = load_system(given.spec, base / "model.safetensors")
    noisy, lengths = rank.examples.noisy, rank.examples.lengths
    assert torch.equal(rank.trainer.enhance(rank.examples), plain.enhance(noisy, lengths)[0])
    rank.train()
    before = load_file(base / "model.safetensors")
    for name, value in rank.trainer.system.state_dict().items():
        if not is_adapter(name):
            assert torch.equal(value, before[name.replace(".parametrizations.weight.original", ".weight")]), name
    path = newest_checkpoint(given)
    saved = load(path)
    assert saved.model
    assert all(is_adapter(name) for name in (*saved.model, *saved.ema))
    assert saved.state.identity["run"]["init_from"] == Start(given.spec, base / "model.safetensors").digest
    size = sum(file.stat().st_size for file in path.iterdir())
    assert size < 0.5 * (base / "model.safetensors").stat().st_size
    (segment,) = saved.state.segments
    assert segment.base.startswith(f"rank 4 on {base.name} (")
    assert "adapters of rank 4" in segment.describe()
    # What is handed on is a model like any other, and enhances as the adapted one does.
    merged = Trained.of(dataclasses.replace(given, config=adapting(base, select="last"))).system()
    assert merged.state_dict().keys() == before.keys()
    assert torch.allclose(merged.enhance(noisy, lengths)[0], rank.trainer.enhance(rank.examples), atol=1e-5)
    assert not torch.allclose(merged.enhance(noisy, lengths)[0], plain.enhance(noisy, lengths)[0], atol=1e-4)


def test_adapters_resume_as_if_undisturbed(shards: Path, base: Path, tmp_path: Path) -> None:
    whole = train(adapting(base), shards, tmp_path / "whole", seed=5)
    given = job(shards, tmp_path / "cut", adapting(base))
    cut = Rank(given)
    asked = iter([False] * 5 + [True])
    cut.trainer._stop = lambda: next(asked)
    cut.train()
    assert cut.trainer.state.step == 5
    Rank(given).train()
    first, second = (load(path).model for path in (newest_checkpoint(whole.job), newest_checkpoint(given)))
    for name, value in first.items():
        assert torch.allclose(value, second[name], atol=1e-6), name
    # Merged weights start another training; adapters alone cannot.
    assert load_system(given.spec, tmp_path / "whole" / "model.safetensors")
    with pytest.raises(UserError, match="adapters alone"):
        job(shards, tmp_path / "y", dataclasses.replace(TINY, init_from=str(newest_checkpoint(given))))


def test_adapters_that_fit_nothing_are_refused_before_the_first_step(shards: Path, base: Path, tmp_path: Path) -> None:
    for lora, said in (
        (LoraConfig(rank=4, targets=("*.gru",)), r"train\.lora\.targets: '\*\.gru'"),
        (LoraConfig(rank=400), r"train\.lora\.rank is 400"),
    ):
        with pytest.raises(UserError, match=said):
            job(shards, tmp_path, adapting(base, lora=lora))
    regression = dataclasses.replace(TINY, objective="regression", max_steps=2)
    train(regression, shards, tmp_path / "r", seed=5)
    refining = adapting(tmp_path / "r", flow=FlowConfig(source="predicted"))
    with pytest.raises(UserError, match=r"train\.lora adapts a whole model"):
        job(shards, tmp_path / "z", refining)
