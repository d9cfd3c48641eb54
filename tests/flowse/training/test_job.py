"""Laws of a job: statistics measured once, the identity of what is trained, and refusals before anything starts."""

import dataclasses
import json
from pathlib import Path

import pytest
from safetensors.torch import save_file

from flowse.errors import UserError
from flowse.flow.config import FlowConfig
from flowse.model.spec import DualPathConfig, ModelSpec
from flowse.model.system import build
from flowse.training import job as module
from flowse.training.checkpoint import Checkpoint, State, save
from flowse.training.config import TrainConfig
from flowse.training.job import Job, _require_rate, prepare
from flowse.training.mixtures import Mixtures
from flowse.training.rank import Rank
from tests.small_shards import TINY


def job(shards: Path, folder: Path, config: TrainConfig = TINY, seed: int = 5) -> Job:
    return prepare(config, Mixtures.read(shards), folder, seed=seed)


def test_the_statistics_are_those_of_the_training_mels_and_measured_once(shards: Path, tmp_path: Path) -> None:
    first = job(shards, tmp_path / "a")
    assert -12 < first.spec.mel_mean < 0 < first.spec.mel_std < 6
    assert job(shards, tmp_path / "b").spec == first.spec
    changed = first.spec.to_dict() | {"mel_mean": -1.0}
    (tmp_path / "a" / "spec.json").write_text(json.dumps(changed))
    assert job(shards, tmp_path / "a").spec.mel_mean == -1.0


def test_a_dataset_keeps_its_statistics_for_every_run(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mixtures = Mixtures.read(shards, tmp_path / "index")
    first = prepare(TINY, mixtures, tmp_path / "a", seed=5).spec
    larger = dataclasses.replace(TINY, model=dataclasses.replace(TINY.model, depth=1))
    with monkeypatch.context() as patch:
        patch.setattr(module, "mel_statistics", lambda *_, **__: pytest.fail("audio was read again"))
        other = prepare(larger, mixtures, tmp_path / "b", seed=5).spec
    assert (other.mel_mean, other.mel_std) == (first.mel_mean, first.mel_std)
    (path,) = (tmp_path / "index").glob("mel-*.json")
    for content in ("", "[1]", "null"):
        path.write_text(content)
        assert prepare(TINY, mixtures, tmp_path / f"c{content}", seed=5).spec == first
    assert len(list((tmp_path / "index").glob("mel-*.json"))) == 1
    prepare(dataclasses.replace(TINY, statistics_utterances=3), mixtures, tmp_path / "d", seed=5)
    assert len(list((tmp_path / "index").glob("mel-*.json"))) == 2


def test_a_spec_that_the_disk_lost_is_that_of_the_checkpoint_or_measured_again(shards: Path, tmp_path: Path) -> None:
    first = job(shards, tmp_path)
    path = tmp_path / "spec.json"
    for content in (b"", b"\xff{"):
        path.write_bytes(content)
        assert job(shards, tmp_path).spec == first.spec
    other = dataclasses.replace(first.spec, mel_mean=-1.0)
    state = State(step=1, epoch=0, samples=0, ema_updates=0, seed=5, identity={"spec": other.to_dict()})
    save(first.checkpoints, Checkpoint(state, {}))
    path.write_bytes(b"")
    assert job(shards, tmp_path).spec == other
    assert ModelSpec.read(path) == other
    path.write_text(json.dumps({**other.to_dict(), "later": 1}))
    with pytest.raises(UserError, match=r"spec\.json: .*later"):
        job(shards, tmp_path)


@pytest.mark.parametrize("seconds", [0.0, float("nan"), -1.0])
def test_an_index_without_lengths_is_refused(shards: Path, seconds: float) -> None:
    first = dataclasses.replace(Mixtures.read(shards).train[0], seconds=seconds)
    with pytest.raises(UserError, match=r"the index gives train-0000 a length"):
        _require_rate(TINY, first)


def test_a_model_with_text_has_the_tokenizers_vocabulary(shards: Path, tmp_path: Path) -> None:
    assert "ni3" in job(shards, tmp_path, dataclasses.replace(TINY, text=True)).spec.vocabulary


def test_the_identity_is_what_checkpoints_cannot_change_the_segment_is_the_rest(shards: Path, tmp_path: Path) -> None:
    base = job(shards, tmp_path).identity
    same = dataclasses.replace(TINY, log_every=1, micro_frames=200, parallel="fsdp", vocoder="v", keep_last=5)
    assert job(shards, tmp_path, same).segment == job(shards, tmp_path).segment
    longer = job(shards, tmp_path, dataclasses.replace(TINY, max_steps=13))
    assert longer.identity == base
    assert longer.segment != job(shards, tmp_path).segment
    assert job(shards, tmp_path, seed=6).identity != base
    assert set(base) == {"spec", "run"}


def test_another_sample_rate_is_refused(shards: Path, tmp_path: Path) -> None:
    config = dataclasses.replace(TINY, mel=dataclasses.replace(TINY.mel, sample_rate=16_000, f_max=8_000.0))
    with pytest.raises(UserError, match=r"sample_rate is 16000, but the shards have 24000"):
        job(shards, tmp_path, config)


def test_a_start_that_is_none_is_refused(shards: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"init_from.*nowhere"):
        job(shards, tmp_path, dataclasses.replace(TINY, init_from=str(tmp_path / "nowhere")))


@pytest.mark.parametrize("predictor", ["dit", "dual_path"])
def test_a_flow_that_begins_at_a_regression_model_takes_its_spec(shards: Path, tmp_path: Path, predictor: str) -> None:
    mask = DualPathConfig(channels=(4, 4, 6), blocks=1, frequency_dim=4, time_dim=4)
    regression = dataclasses.replace(TINY, objective="regression", predictor=predictor, dual_path=mask, max_steps=2)
    first = job(shards, tmp_path / "a", regression)
    Rank(first).train()
    (checkpoint,) = first.checkpoints.iterdir()
    config = dataclasses.replace(
        TINY,
        init_from=str(checkpoint),
        model=dataclasses.replace(TINY.model, dim=64, depth=1),
        flow=FlowConfig(source="predicted", sigma=0.2),
    )
    second = job(shards, tmp_path / "b", config)
    assert second.start is not None
    assert "becomes the predictor" in second.start.describe(second.spec)
    if predictor == "dit":
        assert second.spec.model.dim == 32  # the start's width: of the config only the depth is taken
        assert (second.spec.model.depth, second.spec.flow.predictor_depth) == (1, 2)
    else:
        assert (second.spec.model, second.spec.dual_path) == (config.model, mask)


def test_a_start_of_another_mel_is_refused(shards: Path, tmp_path: Path) -> None:
    first = job(shards, tmp_path / "a", dataclasses.replace(TINY, max_steps=2))
    Rank(first).train()
    (checkpoint,) = first.checkpoints.iterdir()
    mel = dataclasses.replace(TINY.mel, n_mels=80)
    with pytest.raises(UserError, match=r"train\.mel differs"):
        job(shards, tmp_path / "b", dataclasses.replace(TINY, mel=mel, init_from=str(checkpoint)))


def test_sigma_is_the_predictors_error_on_split_dev_measured_once(shards: Path, tmp_path: Path) -> None:
    spec = dataclasses.replace(job(shards, tmp_path / "first").spec, objective="regression")
    (tmp_path / "start").mkdir()
    save_file(build(spec).state_dict(), tmp_path / "start" / "model.safetensors")
    (tmp_path / "start" / "spec.json").write_text(json.dumps(spec.to_dict()))
    config = dataclasses.replace(
        TINY,
        flow=FlowConfig(source="predicted", sigma=9.0, predicts="data"),
        init_from=str(tmp_path / "start"),
        measure_sigma=True,
    )
    found = job(shards, tmp_path / "flow", config).spec
    # An untrained regression returns its input: sigma is the distance of noisy and clean mels.
    assert 0.05 < found.flow.sigma < 6
    assert job(shards, tmp_path / "flow", config).spec == found
    given = job(shards, tmp_path / "given", dataclasses.replace(config, measure_sigma=False)).spec
    assert given == dataclasses.replace(found, flow=dataclasses.replace(found.flow, sigma=9.0))
