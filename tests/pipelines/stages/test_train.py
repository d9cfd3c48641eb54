"""Laws of the train stage: it ends through a worker's death, goes on after a cut, logs each step once."""

import dataclasses
import json
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from flowse.data.shards import Mixture, ShardWriter, merge_indexes, write_index
from flowse.errors import UserError
from flowse.export import load_system
from flowse.flow.config import FlowConfig
from flowse.flow.sampling import Sampling
from flowse.model.spec import DiTConfig, MaskUNetConfig, ModelSpec
from flowse.training.config import OptimConfig
from pipelines.engine import step_log
from pipelines.engine.accounts import StageReport, Tally
from pipelines.engine.resources import Resources
from pipelines.stages import train

# Ray Data, which Ray Train imports, and SQLAlchemy under MLflow warn of what their own authors will change.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray"),
    pytest.mark.filterwarnings("ignore:.*noload.*loader strategy is deprecated"),
]

SMALL = train.Config(
    model=DiTConfig(dim=32, depth=2, heads=2, conv_groups=4, text_dim=16, text_blocks=1),
    optim=OptimConfig(lr=2e-3, warmup_steps=2, ema_decay=0.9),
    max_steps=12,
    frames_per_step=400,
    max_frames=120,
    validate_every=4,
    checkpoint_every=4,
    log_every=2,
    validation_utterances=4,
    examples=1,
)


class FakeTracker:
    """A tracker that remembers."""

    def __init__(self, run_id: str | None = None, uri: str = "") -> None:
        self.run_id, self.uri = run_id, uri
        self.artifacts: list[str] = []
        self.set_tags: dict[str, str] = {}

    def params(self, values: Mapping[str, Any]) -> None: ...

    def metrics(self, values: Mapping[str, float], step: int | None = None) -> None: ...

    def tags(self, values: Mapping[str, str]) -> None:
        self.set_tags.update(values)

    def artifact(self, path: Path, folder: str | None = None) -> None:
        assert path.exists()
        self.artifacts.append(path.name)


@dataclass
class FakeOutput:
    folder: Path
    digest: str = "d1"

    def file(self, name: str) -> Path:
        return self.folder / name

    def parts(self, suffix: str) -> list[Path]:
        return sorted(self.folder.glob(f"*{suffix}"))


@dataclass
class FakeContext:
    folder: Path
    inputs: dict[str, FakeOutput]
    tracker: FakeTracker = field(default_factory=FakeTracker)
    resources: Resources = field(default_factory=lambda: Resources(workers=2, num_cpus=1))
    roots: dict[str, Path] = field(default_factory=dict)
    seed: int = 5
    lines: list[str] = field(default_factory=list)

    @property
    def storage(self) -> Path:
        return self.folder / ".state"

    def map_units(self, *_: Any, **__: Any) -> StageReport:
        raise AssertionError

    @contextmanager
    def write(self, name: str) -> Iterator[Path]:
        yield self.folder / f".{name}.tmp"
        (self.folder / f".{name}.tmp").replace(self.folder / name)

    def say(self, line: str) -> None:
        self.lines.append(line)


def hiss(rng: np.random.Generator, clean: np.ndarray) -> np.ndarray:
    return 0.1 * rng.normal(size=clean.size)


def whistle(rng: np.random.Generator, clean: np.ndarray) -> np.ndarray:
    """A loud tone above all speech: another domain of noise."""
    return 0.5 * np.sin(2 * np.pi * rng.uniform(5000, 9000) * np.arange(clean.size) / 24_000)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small dataset in real shards."""
    return make_shards(tmp_path_factory.mktemp("simulate"), hiss)


def make_shards(folder: Path, noise: Callable[[np.random.Generator, np.ndarray], np.ndarray]) -> Path:
    """Write 20 mixtures to learn from, 5 to validate on, 2 to test."""
    rng = np.random.default_rng(0)
    indexes = []
    for split, count in (("train", 20), ("dev", 5), ("test", 2)):
        name = f"{split}-00000"
        with ShardWriter(folder / f"{name}.tar", f"{name}.tar") as writer:
            for number in range(count):
                time_s = np.arange(int(rng.integers(8_000, 40_000))) / 24_000
                clean = 0.3 * np.sin(2 * np.pi * rng.uniform(200, 2000) * time_s)
                noisy = clean + noise(rng, clean)
                meta = {
                    "utt_id": f"{split}/{number}", "copy": 0, "split": split, "text": "hello there", "language": "en",
                    "speaker": "s", "corpus": "c", "licence": "", "snr_db": 5.0, "room_id": "",
                }  # fmt: skip
                key = f"{split}-{number:04d}"
                waves = {"clean": clean.astype(np.float32), "noisy": noisy.astype(np.float32)}
                writer.add(Mixture(key=key, **waves, sample_rate=24_000, meta=meta))
            rows = writer.close()
        indexes.append(folder / f"{name}.index.parquet")
        write_index(indexes[-1], rows)
    digest = merge_indexes(indexes, folder / "index.parquet")
    (folder / "dataset.json").write_text(json.dumps({"digest": digest}))
    return folder


def context(folder: Path, shards: Path, **options: Any) -> FakeContext:
    folder.mkdir(parents=True, exist_ok=True)
    return FakeContext(folder, {"simulate": FakeOutput(shards)}, **options)


def job(folder: Path, shards: Path, config: train.Config = SMALL) -> train.Job:
    given = context(folder, shards)
    given.storage.mkdir(parents=True, exist_ok=True)
    spec, start = train._prepare(config, given, train.split_rows(shards, "train"))
    return train.Job(config, spec, start, 5, shards, given.storage, {"spec": spec.to_dict()}, "", "", 1)


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """Ray on this machine, with three cores, for as long as this module's tests run."""
    import ray

    os.environ["RAY_TRAIN_V2_ENABLED"] = "1"
    os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
    os.environ["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"] = "0.3"
    ray.init(address="local", num_cpus=3, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()


@pytest.fixture
def mlflow_run(tmp_path: Path) -> FakeTracker:
    """A real MLflow run in a sqlite store."""
    import mlflow

    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    client = mlflow.MlflowClient(tracking_uri=uri)
    experiment = client.create_experiment("test", artifact_location=(tmp_path / "artifacts").as_uri())
    return FakeTracker(client.create_run(experiment).info.run_id, uri)


def kill_a_worker_after(state: Path, step: int, killed: list[int]) -> None:
    """Kill rank 0 with SIGKILL once it has logged `step`."""
    while True:
        time.sleep(0.02)
        now = step_log.read_json(state / "progress.json")
        if now and now["step"] >= step:
            pid = json.loads((state / "starts.jsonl").read_text().splitlines()[-1])["pid"]
            os.kill(pid, signal.SIGKILL)
            killed.append(pid)
            return


def test_three_workers_end_a_run_through_a_death_and_mlflow_has_each_step_once(
    tmp_path: Path, shards: Path, cluster: None, mlflow_run: FakeTracker
) -> None:
    import mlflow

    three = Resources(workers=3, num_cpus=1)
    given = context(tmp_path / "abc123", shards, tracker=mlflow_run, resources=three)
    config = dataclasses.replace(SMALL, max_steps=60, vocoder="vocos-mel-24khz-small")
    killed: list[int] = []
    killer = threading.Thread(target=kill_a_worker_after, args=(given.storage, 6, killed), daemon=True)
    killer.start()
    report = train.run(config, given)
    assert killed

    assert (
        report.taken
        == report.kept
        == Tally.of(row.seconds for split in ("train", "dev") for row in train.split_rows(shards, split))
    )
    assert report.metrics["steps"] == 60
    assert report.metrics["restarts"] == 1
    history = pq.read_table(given.folder / "history.parquet").to_pylist()
    assert [row["step"] for row in history] == list(range(2, 61, 2))
    assert history[-1]["train_loss"] < history[0]["train_loss"]
    assert any("60/60 steps" in line for line in given.lines)

    spec = ModelSpec.from_dict(json.loads((given.folder / "spec.json").read_text()))
    system = load_system(spec, given.folder / "model.safetensors")
    enhanced, _ = system.enhance(torch.zeros(1, 9, 100) - 6, sampling=Sampling(steps=2))
    assert torch.isfinite(enhanced).all()
    assert (given.folder / "dataset.json").read_bytes() == (shards / "dataset.json").read_bytes()
    assert mlflow_run.set_tags["dataset_digest"] == json.loads((shards / "dataset.json").read_text())["digest"]

    client = mlflow.MlflowClient(tracking_uri=mlflow_run.uri)
    logged = [metric.step for metric in client.get_metric_history(mlflow_run.run_id, "train_loss")]
    assert Counter(logged) == Counter({row["step"]: 1 for row in history})
    assert client.get_run(mlflow_run.run_id).data.tags["restarts"] == "1"
    shown = client.list_artifacts(mlflow_run.run_id, "examples")
    assert "examples/step-00000060" in [item.path for item in shown]
    shown = client.list_artifacts(mlflow_run.run_id, "examples/step-00000060")
    assert sorted(Path(item.path).suffix for item in shown) == [".flac", ".png"]  # to hear and to see

    # A driver that died after training but before its outputs finds the run finished, and trains no step again.
    (given.folder / "model.safetensors").rename(given.folder / "first.safetensors")
    again = train.run(config, given)
    assert again.metrics["steps"] == 60
    assert (given.folder / "model.safetensors").read_bytes() == (given.folder / "first.safetensors").read_bytes()


def test_sharded_workers_train_what_replicas_train(tmp_path: Path, shards: Path, cluster: None) -> None:
    ends = []
    for parallel in ("ddp", "fsdp"):
        given = context(tmp_path / parallel, shards)
        train.run(dataclasses.replace(SMALL, max_steps=4, parallel=parallel), given)
        ends.append(load_file(given.folder / "model.safetensors"))
    assert ends[0].keys() == ends[1].keys()
    for name, value in ends[0].items():
        assert torch.allclose(value, ends[1][name], atol=1e-4), name


def test_a_broken_shard_stops_the_stage_and_is_named(tmp_path: Path, shards: Path, cluster: None) -> None:
    copy = tmp_path / "shards"
    copy.mkdir()
    for path in shards.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    given = context(tmp_path / "broken", copy)
    train._prepare(SMALL, _with_storage(given), train.split_rows(copy, "train"))
    whole = (copy / "train-00000.tar").read_bytes()
    (copy / "train-00000.tar").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"train-00000.tar.*cut off"):
        train.run(dataclasses.replace(SMALL, max_failures=0), given)


def _with_storage(given: FakeContext) -> FakeContext:
    given.storage.mkdir(parents=True)
    return given


def test_more_workers_than_the_cluster_holds_are_refused(tmp_path: Path, shards: Path, cluster: None) -> None:
    given = context(tmp_path / "x", shards, resources=Resources(workers=4, num_cpus=1))
    with pytest.raises(UserError, match=r"cluster\.stages\.train\.workers"):
        train.run(SMALL, given)


def test_a_worker_alone_learns_and_stops_where_it_should(tmp_path: Path, shards: Path) -> None:
    heard: list[train.Progress] = []
    train.Worker(job(tmp_path, shards))(heard.append)
    assert [progress.step for progress in heard] == [2, 4, 6, 8, 10, 12]
    assert [progress.validation is not None for progress in heard] == [False, True] * 3


def test_text_reaches_the_model(tmp_path: Path, shards: Path) -> None:
    config = dataclasses.replace(SMALL, text=True)
    spec = job(tmp_path, shards, config).spec
    assert "ni3" in spec.vocabulary
    (row, *_) = train.split_rows(shards, "train")
    ids = train.reader(shards, spec)(row).text_ids
    assert "".join(spec.vocabulary[index - 1] for index in ids) == "hello there"
    assert train._unknown_symbols(spec, [dataclasses.replace(row, text="hello ☃☃")]) == 2


def test_the_statistics_are_those_of_the_training_mels(tmp_path: Path, shards: Path) -> None:
    spec = job(tmp_path, shards).spec
    assert -12 < spec.mel_mean < 0 < spec.mel_std < 6
    again = job(tmp_path / "other", shards).spec
    assert again == spec


def test_fine_tuning_starts_from_a_checkpoint_and_leaves_frozen_weights(tmp_path: Path, shards: Path) -> None:
    first = job(tmp_path / "first", shards)
    train.Worker(first)(lambda progress: None)
    start = train.latest(first.checkpoints)
    config = dataclasses.replace(SMALL, init_from=str(start), freeze=("network.blocks.0.*",), max_steps=4)
    second = job(tmp_path / "second", shards, config)
    assert second.spec == first.spec
    worker = train.Worker(second)
    before = load_file(start / "ema.safetensors")
    for name, value in worker.trainer.system.state_dict().items():
        assert torch.equal(value, before[name])
    worker(lambda progress: None)
    for name, value in worker.trainer.system.state_dict().items():
        assert torch.equal(value, before[name]) == name.startswith("network.blocks.0."), name


def test_fine_tuning_the_last_block_improves_on_another_domain_of_noise(tmp_path: Path, shards: Path) -> None:
    base = dataclasses.replace(SMALL, objective="regression", max_steps=60, validate_every=60)
    first = job(tmp_path / "base", shards, base)
    train.Worker(first)(lambda _: None)
    other = make_shards(tmp_path, whistle)
    tuned = dataclasses.replace(
        base,
        init_from=str(train.latest(first.checkpoints)),
        freeze=("network.blocks.0.*", "network.input.*", "network.position.*"),
        optim=dataclasses.replace(base.optim, lr=5e-4),
        max_steps=40,
        validate_every=40,
    )
    worker = train.Worker(job(tmp_path / "tuned", other, tuned))
    before = worker.trainer.validate()["loss"]
    heard: list[Any] = []
    worker(heard.append)
    after = heard[-1].validation["loss"]
    assert after < 0.8 * before


def test_two_ranks_build_the_mel_cache_between_them_and_train_from_it(
    tmp_path: Path, shards: Path, cluster: None
) -> None:
    config = dataclasses.replace(SMALL, mel_cache=True, max_steps=2)
    given = context(tmp_path / "c", shards)
    train.run(config, given)
    (built,) = (given.storage / "mels").iterdir()  # one shard of split train
    begun = built.stat().st_mtime_ns
    plain = context(tmp_path / "p", shards)
    train.run(dataclasses.replace(config, mel_cache=False), plain)
    losses = [next(step_log.read_history(one.storage))["train_loss"] for one in (given, plain)]
    assert losses[0] == pytest.approx(losses[1], rel=0.05)  # the same mixtures, but for the ends of crops
    assert built.stat().st_mtime_ns == begun


@pytest.mark.parametrize("predictor", ["dit", "unet"])
def test_a_regression_model_becomes_the_predictor_that_the_flow_refines(
    tmp_path: Path, shards: Path, predictor: str
) -> None:
    unet = MaskUNetConfig(channels=(4, 6), dim=16, depth=2)
    first = job(
        tmp_path / "a", shards, dataclasses.replace(SMALL, objective="regression", predictor=predictor, unet=unet)
    )
    train.Worker(first)(lambda _: None)
    start = train.latest(first.checkpoints)
    config = dataclasses.replace(
        SMALL,
        init_from=str(start),
        freeze=("predictor.*",),
        model=dataclasses.replace(SMALL.model, dim=64, depth=1),
        flow=FlowConfig(source="predicted", sigma=0.2),
        max_steps=4,
    )
    second = job(tmp_path / "b", shards, config)
    if predictor == "dit":
        assert second.spec.model.dim == 32  # the start's width: the flow's network takes nothing else of the config
        assert (second.spec.model.depth, second.spec.flow.predictor_depth) == (1, 2)
    else:
        assert (second.spec.model, second.spec.unet) == (config.model, unet)
    worker = train.Worker(second)
    assert worker.examples is not None
    noisy, lengths = worker.examples.noisy, worker.examples.lengths
    regressed, _ = load_system(first.spec, start / "ema.safetensors").enhance(noisy, lengths)

    def predicted() -> torch.Tensor:
        return worker.trainer.system.enhance(noisy, lengths, sampling=Sampling(steps=0))[0]

    assert torch.equal(predicted(), regressed)
    worker(lambda _: None)
    assert torch.equal(predicted(), regressed)
    refined, _ = worker.trainer.system.enhance(noisy, lengths, sampling=Sampling(steps=2))
    assert not torch.allclose(refined, regressed)


def test_progress_of_the_mel_cache_is_told_with_the_time_left() -> None:
    line = step_log.progress_line({"cached": 3, "shards": 12, "seconds": 30.0})
    assert "3/12 shards" in line
    assert "1:30 left" in line


def test_a_start_that_is_none_is_refused(tmp_path: Path, shards: Path) -> None:
    with pytest.raises(UserError, match=r"init_from.*nowhere"):
        job(tmp_path, shards, dataclasses.replace(SMALL, init_from=str(tmp_path / "nowhere")))


def test_a_dataset_without_training_data_is_refused(tmp_path: Path, shards: Path) -> None:
    folder = tmp_path / "simulate"
    folder.mkdir()
    merge_indexes([shards / "test-00000.index.parquet"], folder / "index.parquet")
    with pytest.raises(UserError, match="no mixture of split train"):
        train.run(SMALL, context(tmp_path / "x", folder))


@pytest.mark.parametrize(
    ("key", "value"),
    [("select", "first"), ("parallel", "tp"), ("max_frames", 500), ("micro_frames", 50), ("objective", "gan"),
     ("precision", "fp16"), ("max_steps", 0)],
)  # fmt: skip
def test_impossible_settings_are_refused_by_name(key: str, value: object) -> None:
    with pytest.raises(ValueError, match=key):
        dataclasses.replace(SMALL, **{key: value})
