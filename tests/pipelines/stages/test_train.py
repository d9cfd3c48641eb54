"""Laws of the train stage: it survives a worker's death, resumes after a cut, and logs each step once."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile as sf
import torch
from safetensors.torch import load_file

from flowse.data.shards import merge_indexes
from flowse.errors import UserError
from flowse.export import load_system
from flowse.fetching import use_source
from flowse.flow.config import FlowConfig
from flowse.flow.guard import GUARD, Guard, GuardConfig
from flowse.flow.sampling import Sampling
from flowse.metrics.dnsmos import DnsmosScore
from flowse.metrics.pairs import Pairs
from flowse.model.spec import ModelSpec
from flowse.training.checkpoint import Checkpoint, State, save
from flowse.training.config import OptimConfig
from flowse.training.history import read_history, read_progress
from flowse.training.job import prepare
from flowse.training.ledger import RunState, read_segments
from flowse.training.listen_config import ListenConfig
from flowse.training.listening import Listener, prepare_listening
from flowse.training.mixtures import Mixtures, split_rows
from flowse.training.rank import Rank
from flowse.training.ranks import Ranks
from pipelines.engine import ray_units
from pipelines.engine.accounts import Tally
from pipelines.engine.backend import Backend
from pipelines.engine.context import Context, UnrecordedOutput
from pipelines.engine.nearby import bring_files_here
from pipelines.engine.resources import Capacity, Node, Resources
from pipelines.engine.scratch import use_scratch
from pipelines.engine.store import Store
from pipelines.stages import train
from pipelines.stages.evaluate import guarded
from pipelines.stages.ingest import corpus_roots
from tests.pipelines.doubles import RememberingTracker
from tests.pipelines.engine.s3 import KEYS, s3_server
from tests.pipelines.small_workspace import run_data_stages
from tests.small_shards import TINY_TRAINING, make_shards

# Ray Data, which Ray Train imports, and SQLAlchemy under MLflow warn of what their own authors will change.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray"),
    pytest.mark.filterwarnings("ignore:.*noload.*loader strategy is deprecated"),
]

SMALL = train.Config(**TINY_TRAINING)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small dataset in real shards."""
    return make_shards(tmp_path_factory.mktemp("simulate"))


def here(folder: Path, shards: Path, **options: Any) -> Context:
    """A stage's context in this process."""
    return Context(folder, seed=5, inputs={"simulate": UnrecordedOutput(shards)}, **options)


TWO = Resources(workers=2, num_cpus=1)


def on_ray(
    folder: Path, shards: Path, resources: Resources = TWO, tracker: RememberingTracker | None = None
) -> Context:
    """A stage's context on the Ray of this module."""
    backend = Backend(Capacity((Node(3.0),)), ray_units.map_units)
    return here(folder, shards, resources=resources, backend=backend, tracker=tracker)


@pytest.fixture(scope="module")
def store() -> Iterator[None]:
    """An S3 server, which this process and the workers find by the environment."""
    before = dict(os.environ)
    with s3_server() as address:
        os.environ.update(KEYS | {"AWS_ENDPOINT_URL": address})
        yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="module")
def cluster(store: None) -> Iterator[None]:
    """Ray on this machine, with three cores, for as long as this module's tests run."""
    import ray

    os.environ["RAY_TRAIN_V2_ENABLED"] = "1"
    os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
    os.environ["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"] = "0.3"
    ray.init(address="local", num_cpus=3, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()


@pytest.fixture
def mlflow_run(tmp_path: Path) -> RememberingTracker:
    """A real MLflow run in a sqlite store."""
    import mlflow

    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    client = mlflow.MlflowClient(tracking_uri=uri)
    experiment = client.create_experiment("test", artifact_location=(tmp_path / "artifacts").as_uri())
    return RememberingTracker(client.create_run(experiment).info.run_id, uri)


def run_of(given: Context) -> Path:
    """The newest run of a stage's folder."""
    return max((given.folder.parent / ".runs").iterdir())


def kill_a_worker_after(given: Context, step: int, killed: list[int]) -> None:
    """Kill rank 0 with SIGKILL once it has logged `step`."""
    while True:
        time.sleep(0.02)
        if not (given.folder.parent / ".runs").exists():
            continue
        state = run_of(given)
        figures = read_progress(state)
        if figures and figures["step"] >= step:
            pid = json.loads((state / "starts.jsonl").read_text().splitlines()[-1])["pid"]
            os.kill(pid, signal.SIGKILL)
            killed.append(pid)
            return


def test_three_workers_end_a_run_through_a_death_and_mlflow_has_each_step_once(
    tmp_path: Path,
    shards: Path,
    cluster: None,
    mlflow_run: RememberingTracker,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import mlflow

    three = Resources(workers=3, num_cpus=1)
    given = on_ray(tmp_path / "abc123", shards, three, mlflow_run)
    shown = {"examples": 1, "vocoder": "vocos-mel-24khz-small"}
    config = dataclasses.replace(SMALL, max_steps=40, validate_every=20, **shown)  # type: ignore[arg-type]
    killed: list[int] = []
    killer = threading.Thread(target=kill_a_worker_after, args=(given, 6, killed), daemon=True)
    killer.start()
    report = train.run(config, given)
    assert killed

    assert (
        report.taken
        == report.kept
        == Tally.of(row.seconds for split in ("train", "dev") for row in split_rows(shards, split))
    )
    assert report.metrics["steps"] == 40
    assert report.metrics["restarts"] == 1
    history = pq.read_table(given.folder / "history.parquet").to_pylist()
    assert [row["step"] for row in history] == list(range(2, 41, 2))
    assert history[-1]["train_loss"] < history[0]["train_loss"]
    assert "40/40 steps" in capsys.readouterr().out

    spec = ModelSpec.from_dict(json.loads((given.folder / "spec.json").read_text()))
    system = load_system(spec, given.folder / "model.safetensors")
    enhanced, _ = system.enhance(torch.zeros(1, 9, 100) - 6, sampling=Sampling(steps=2))
    assert torch.isfinite(enhanced).all()
    assert (given.folder / "dataset.json").read_bytes() == (shards / "dataset.json").read_bytes()
    assert mlflow_run.set_tags["dataset_digest"] == json.loads((shards / "dataset.json").read_text())["digest"]

    client = mlflow.MlflowClient(tracking_uri=mlflow_run.uri)
    logged = [metric.step for metric in client.get_metric_history(mlflow_run.run_id, "train/loss")]
    assert Counter(logged) == Counter({row["step"]: 1 for row in history})
    assert client.get_run(mlflow_run.run_id).data.tags["restarts"] == "1"
    listed = client.list_artifacts(mlflow_run.run_id, "examples")
    assert "examples/step-00000040" in [item.path for item in listed]
    listed = client.list_artifacts(mlflow_run.run_id, "examples/step-00000040")
    assert sorted(Path(item.path).suffix for item in listed) == [".flac", ".png"]  # to hear and to see

    # A driver that died after training but before its outputs finds the run finished, and trains no step again.
    (given.folder / "model.safetensors").rename(given.folder / "first.safetensors")
    again = train.run(config, given)
    assert again.metrics["steps"] == 40
    assert (given.folder / "model.safetensors").read_bytes() == (given.folder / "first.safetensors").read_bytes()


def test_sharded_workers_train_what_one_process_trains(tmp_path: Path, shards: Path, cluster: None) -> None:
    quiet = dataclasses.replace(SMALL.model, dropout=0.0)
    config = dataclasses.replace(SMALL, max_steps=4, model=quiet, parallel="fsdp", divisible_by=2)
    ends = []
    for given in (on_ray(tmp_path / "two" / "x", shards), here(tmp_path / "one" / "x", shards)):
        train.run(config, given)
        ends.append(load_file(given.folder / "model.safetensors"))
    assert ends[0].keys() == ends[1].keys()
    for name, value in ends[0].items():
        assert torch.allclose(value, ends[1][name], atol=1e-4), name


def test_two_workers_choose_the_weights_by_their_ear_for_recordings_in_a_store(
    tmp_path: Path, shards: Path, cluster: None
) -> None:
    noise, listed = np.random.default_rng(0), Store("s3://bucket/pairs")
    for number in range(3):
        tone = 0.3 * np.sin(np.arange(18_000) / (8 + number))
        for name, samples in (("clean", tone), ("noisy", tone + 0.1 * noise.standard_normal(18_000))):
            sf.write(tmp_path / "r.wav", samples, 16_000)
            listed.put(f"{name}/r{number}.wav", tmp_path / "r.wav")
    real = Pairs(name="real", noisy=f"{listed.url}/noisy", clean=f"{listed.url}/clean")
    hears = ListenConfig(every=1, pairs=(real,), whisper="", sampling=Sampling(steps=1))
    config = dataclasses.replace(SMALL, max_steps=6, validate_every=3, select="metric:speaker_cosine", listen=hears)
    given = on_ray(tmp_path / "t" / "x", shards)
    use_scratch(str(tmp_path / "scratch"), 0.0)
    bring_files_here()
    try:
        report = train.run(config, given)
        history = [record for record in read_history(run_of(given)) if "listen_ovrl" in record]
        assert [record["step"] for record in history] == [3, 6]
        best = max(history, key=lambda record: record["listen_speaker_cosine"])
        assert report.metrics["listen/best_step"] == best["step"]
        handed_on = load_file(given.folder / "model.safetensors")
        # Whoever heard a recording, the figures are those that the model has with all three.
        spec = ModelSpec.read(given.folder / "spec.json")
        listening = prepare_listening(hears, config.select, spec, Mixtures.read(shards).dev, shards)
        assert listening is not None
        heard = Listener(listening, spec, shards, seed=5)(handed_on, Ranks())
    finally:
        use_source(None)
        use_scratch("", 0.0)
    for name in ("ovrl", "speaker_cosine", "noisy_ovrl", "noisy_speaker_cosine"):
        assert best[f"listen_{name}"] == pytest.approx(heard[name], abs=1e-3), name


def test_a_broken_shard_stops_the_stage_and_is_named(tmp_path: Path, shards: Path) -> None:
    copy = tmp_path / "shards"
    copy.mkdir()
    for path in shards.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    given = here(tmp_path / "broken", copy)
    whole = (copy / "train-00000.tar").read_bytes()
    (copy / "train-00000.tar").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"max_skipped_share=0.05.*train-00000.tar.*cut off"):
        train.run(SMALL, given)


def test_a_damaged_mixture_is_left_out_and_said(tmp_path: Path, shards: Path) -> None:
    copy = tmp_path / "shards"
    shutil.copytree(shards, copy)
    row = split_rows(copy, "train")[7]
    content = bytearray((copy / row.shard).read_bytes())
    content[row.noisy_offset + row.noisy_bytes // 2] ^= 0xFF
    (copy / row.shard).write_bytes(content)
    given = here(tmp_path / "train" / "x", copy)
    report = train.run(SMALL, given)
    assert (report.metrics["steps"], report.metrics["left out mixtures"]) == (12, 1)
    assert any("left out: 1 mixture(s), 0 step(s)" in note and row.key in note for note in report.notes)
    assert "skipped.parquet" in given.files


def test_a_longer_training_goes_on_in_a_segment_of_its_own(tmp_path: Path, shards: Path) -> None:
    runs = [here(tmp_path / name, shards) for name in ("first", "second", "again")]
    train.run(SMALL, runs[0])
    longer = dataclasses.replace(SMALL, max_steps=16)
    assert train.run(longer, runs[1]).metrics["segments"] == 2
    assert [record["step"] for record in read_history(run_of(runs[1]))] == list(range(2, 17, 2))
    segments = read_segments(runs[1].folder / "segments.json")
    assert [(segment.from_step, segment.to_step) for segment in segments] == [(0, 12), (12, 16)]
    # Another run begins only if that is asked for.
    anew = train.run(dataclasses.replace(longer, continue_=False), runs[2])
    assert anew.metrics["segments"] == 1
    assert len(list((tmp_path / ".runs").iterdir())) == 2


def test_a_distillation_goes_on_with_its_teacher_and_begins_anew_with_another(tmp_path: Path, shards: Path) -> None:
    brief = dataclasses.replace(SMALL, max_steps=4, validate_every=0, checkpoint_every=2, log_every=2)
    flows = [here(tmp_path / "train" / name, shards) for name in ("flow", "other")]
    train.run(brief, flows[0])
    train.run(dataclasses.replace(brief, continue_=False, optim=OptimConfig(lr=1e-4)), flows[1])
    teacher = tmp_path / "teacher"
    shutil.copytree(flows[0].folder, teacher)
    distil = dataclasses.replace(brief, objective="distil", init_from=str(teacher))
    first, longer, anew = (here(tmp_path / "train" / name, shards) for name in ("first", "longer", "anew"))
    assert train.run(distil, first).metrics["segments"] == 1
    assert ModelSpec.read(first.folder / "spec.json").jumps
    assert train.run(dataclasses.replace(distil, max_steps=6), longer).metrics["segments"] == 2
    # The same folder now holds other weights: no run of the old teacher goes on with them.
    shutil.rmtree(teacher)
    shutil.copytree(flows[1].folder, teacher)
    assert train.run(dataclasses.replace(distil, max_steps=8), anew).metrics["segments"] == 1
    shutil.rmtree(teacher)
    with pytest.raises((UserError, FileNotFoundError), match="teacher"):
        train.run(dataclasses.replace(distil, max_steps=10), anew)


def test_the_fingerprint_holds_the_segments_before(tmp_path: Path, shards: Path) -> None:
    first = here(tmp_path / "first", shards)
    train.run(SMALL, first)
    dataset = Mixtures.read(shards).digest

    def addition(config: train.Config, has_output: bool = True) -> dict[str, Any]:
        return train.continues(config, 5, {"simulate": dataset}, tmp_path, lambda addition: has_output)

    longer = dataclasses.replace(SMALL, max_steps=16)
    (before,) = read_segments(first.folder / "segments.json")
    assert addition(SMALL) == {}
    assert addition(longer) == {"segments before": [before.digest]}
    assert addition(dataclasses.replace(longer, continue_=False)) == {}
    train.run(longer, here(tmp_path / "second", shards))
    assert addition(longer) == {"segments before": [before.digest]}  # it is done, and stays fresh
    assert addition(SMALL) == {}  # and so is what it went on from
    assert train.begin_anew(tmp_path) == 1
    assert addition(longer) == {}


def test_sigterm_to_the_driver_ends_the_training_with_a_checkpoint(tmp_path: Path, shards: Path) -> None:
    given = here(tmp_path / "train" / "x", shards)
    endless = dataclasses.replace(SMALL, max_steps=100_000, validate_every=0, checkpoint_every=0)

    def terminate() -> None:
        while not (runs := tmp_path / "train" / ".runs").exists() or not read_progress(max(runs.iterdir())):
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=terminate, daemon=True).start()
    with pytest.raises(UserError, match=r"stopped after step \d+, as asked, with a checkpoint"):
        train.run(endless, given)
    state = RunState.read(run_of(given))
    assert state is not None
    assert train.run(dataclasses.replace(SMALL, max_steps=state.step + 2), given).metrics["segments"] == 2


def test_a_last_checkpoint_that_the_driver_cannot_read_is_not_said_to_be_a_stop_on_request(
    tmp_path: Path, shards: Path
) -> None:
    job = prepare(SMALL, Mixtures.read(shards), tmp_path / "run")
    empty: dict[str, torch.Tensor] = {"model.w": torch.zeros(1)}
    for step, finished in ((2, ""), (3, "max_steps")):
        state = State(step=step, epoch=0, samples=step, ema_updates=step, seed=5, finished=finished)
        save(job.checkpoints, Checkpoint(state, empty))
    # What ranks write whose machines have a newer version of the code than the driver.
    path = job.checkpoints / "step-00000003" / "state.json"
    record = {key: value for key, value in json.loads(path.read_text()).items() if key != "record_sha256"}
    path.write_text(json.dumps(record | {"of_a_later_version": 1}))
    assert not job.is_finished
    said = str(train._not_finished(job))
    assert "step-00000003" in said
    assert "of_a_later_version" in said
    assert "as asked" not in said
    shutil.rmtree(path.parent)
    assert "stopped after step 2, as asked" in str(train._not_finished(job))


def test_more_workers_than_the_cluster_holds_are_refused(tmp_path: Path, shards: Path) -> None:
    given = on_ray(tmp_path / "x", shards, Resources(workers=4, num_cpus=1))
    with pytest.raises(UserError, match=r"cluster\.stages\.train\.workers"):
        train.run(SMALL, given)


def test_two_ranks_build_the_mel_cache_between_them_and_train_from_it(
    tmp_path: Path, shards: Path, cluster: None
) -> None:
    mels = tmp_path / "mels"
    cached = {"mel_cache": True, "mel_cache_folder": str(mels), "loader_processes": 1}
    config = dataclasses.replace(SMALL, **cached, max_steps=2, divisible_by=2)  # type: ignore[arg-type]
    given = on_ray(tmp_path / "c" / "x", shards)
    train.run(config, given)
    (built,) = mels.glob("*.npy")  # one shard of split train
    begun = built.stat().st_ino
    plain = here(tmp_path / "p" / "x", shards)
    train.run(dataclasses.replace(config, mel_cache=False, loader_processes=0), plain)
    losses = [next(read_history(run_of(run)))["train_loss"] for run in (given, plain)]
    assert losses[0] == pytest.approx(losses[1], rel=0.05)  # the same mixtures, but for the ends of crops
    assert built.stat().st_ino == begun


def test_without_ray_it_trains_in_this_process(
    tmp_path: Path, shards: Path, mlflow_run: RememberingTracker, capsys: pytest.CaptureFixture[str]
) -> None:
    import mlflow

    given = here(tmp_path / "abc123", shards, tracker=mlflow_run)
    report = train.run(SMALL, given)
    assert report.metrics["steps"] == 12
    assert report.notes[0].endswith("1 worker(s)")
    assert set(given.files) == {
        "model.safetensors", "spec.json", "segments.json", "dataset.json", "history.parquet", "loss.png",
    }  # fmt: skip
    client = mlflow.MlflowClient(tracking_uri=mlflow_run.uri)
    logged = client.get_metric_history(mlflow_run.run_id, "train/loss")
    assert sorted(metric.step for metric in logged) == [2, 4, 6, 8, 10, 12]
    assert "12/12 steps" in capsys.readouterr().out.splitlines()[-1]


def test_without_ray_an_error_that_names_its_cause_is_the_users(tmp_path: Path, shards: Path) -> None:
    with pytest.raises(UserError, match=r"train: step 0: the gradient's norm"):
        train.run(dataclasses.replace(SMALL, explode_norm=1e-9, max_skipped_steps=0), here(tmp_path / "x", shards))


def test_a_refinements_guard_is_chosen_on_split_dev_and_evaluate_takes_it(
    tmp_path: Path, shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flowse.metrics.dnsmos.Dnsmos", lambda threads: _by_level)
    choice = GuardConfig(mixtures=3, sampling=Sampling(steps=1, synthesis="noisy_phase"))
    refining = dataclasses.replace(
        SMALL, flow=FlowConfig(source="predicted", sigma=0.3, predicts="data"), max_steps=4, guard=choice
    )
    given = here(tmp_path / "train" / "guarded", shards)
    report = train.run(refining, given)
    found = Guard.read(given.folder)
    assert found is not None
    assert found.mixtures == 3
    assert found.ovrl[f"{found.guard:g}"] >= found.ovrl["0"]
    assert any("guard" in note for note in report.notes)
    unguarded, own = Sampling(steps=1), Sampling(steps=1, guard=0.9)
    assert guarded(unguarded, given.folder) == dataclasses.replace(unguarded, guard=found.guard)
    assert guarded(own, given.folder) == own
    (given.folder / GUARD).write_text("{}")
    with pytest.raises(UserError, match=r"guard\.json.*train again"):
        guarded(unguarded, given.folder)
    # The weights are those of a training that chooses none.
    plain = here(tmp_path / "train" / "plain", shards)
    train.run(dataclasses.replace(refining, guard=GuardConfig()), plain)
    assert Guard.read(plain.folder) is None
    assert guarded(unguarded, plain.folder) == unguarded
    weights = [load_file(of.folder / "model.safetensors") for of in (given, plain)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def _by_level(waveform: np.ndarray, sample_rate: int) -> DnsmosScore:
    value = 1 + float(np.abs(waveform).mean())
    return DnsmosScore(ovrl=value, sig=value, bak=value, p808=value)


def test_a_guard_that_could_not_be_chosen_is_refused_before_the_training(tmp_path: Path, shards: Path) -> None:
    with pytest.raises(UserError, match=r"train\.guard is for a flow that refines"):
        train.run(dataclasses.replace(SMALL, guard=GuardConfig(mixtures=3)), here(tmp_path / "flow", shards))
    refining = dataclasses.replace(SMALL, flow=FlowConfig(source="predicted"))
    unknown = dataclasses.replace(refining, guard=GuardConfig(mixtures=3, vocoder="nowhere"))
    with pytest.raises(UserError, match=r"train\.guard\.vocoder"):
        train.run(unknown, here(tmp_path / "vocoder", shards))
    no_dev = tmp_path / "no-dev"
    shutil.copytree(shards, no_dev)
    (no_dev / "dev-00000.tar").unlink()
    merge_indexes([no_dev / f"{split}-00000.index.parquet" for split in ("train", "test")], no_dev / "index.parquet")
    with pytest.raises(UserError, match=r"train\.guard needs mixtures"):
        train.run(dataclasses.replace(refining, guard=GuardConfig(mixtures=3)), here(tmp_path / "dev", no_dev))


class _Anew:
    """A workspace whose data stages ran, to train on mixtures that are drawn anew."""

    def __init__(self, root: Path) -> None:
        workspace, config, plans = run_data_stages(root)
        self.inputs = {name: done for name in train.READS if (done := plans[name].finished) is not None}
        self.roots = corpus_roots(config.ingest, workspace)
        self.config = dataclasses.replace(SMALL, mixing="dynamic", text=True, max_steps=6)

    def context(self, folder: Path) -> Context:
        return Context(folder, seed=11, inputs=self.inputs, roots=self.roots)

    def batches(self, folder: Path, mixing: str, rank: int = 0, world_size: int = 1) -> dict[tuple[int, str], Any]:
        """Noisy and clean log-mel and token ids of the mixtures of two epochs, by epoch and key."""
        config = dataclasses.replace(self.config, mixing=mixing)
        mixtures = Mixtures.read(self.inputs["simulate"].folder)
        redraw = train._redraw(self.context(folder / "x"), "digest") if mixing == "dynamic" else None
        job = prepare(config, mixtures, folder / f"{mixing}-{rank}-{world_size}", seed=11, redraw=redraw)
        loader = Rank(job, rank, world_size).trainer._loader
        found = {}
        for step in loader.steps():
            if step.after.epoch >= 2 and step.after.samples:
                return found
            for item in step.batches:
                batch = item.batch
                for place, (key, length) in enumerate(zip(batch.keys, batch.lengths.tolist(), strict=True)):
                    if key:
                        epoch = step.after.epoch - (step.after.samples == 0)
                        ids = () if batch.text_ids is None else tuple(batch.text_ids[place].tolist())
                        values = batch.noisy[place, :length], batch.clean[place, :length], [i for i in ids if i]
                        found[epoch, key] = values
        raise AssertionError("a loader ends never")


@pytest.fixture(scope="module")
def anew(tmp_path_factory: pytest.TempPathFactory) -> _Anew:
    return _Anew(tmp_path_factory.mktemp("anew"))


def test_mixtures_drawn_anew_begin_with_the_stored_ones_and_differ_by_epoch(anew: _Anew, tmp_path: Path) -> None:
    stored, drawn = (anew.batches(tmp_path / mixing, mixing) for mixing in ("stored", "dynamic"))
    assert stored.keys() == drawn.keys()
    keys = sorted(key for epoch, key in stored if epoch == 0)
    for key in keys:
        for mine, other in zip(drawn[0, key][:2], stored[0, key][:2], strict=True):
            assert torch.equal(mine, other), key
        assert drawn[0, key][2] == stored[0, key][2]
        assert drawn[1, key][2] == stored[1, key][2]  # the words stay, whatever the noise is
        assert torch.equal(stored[1, key][0], stored[0, key][0])
        assert not torch.equal(drawn[1, key][0], drawn[0, key][0]), key


def test_mixtures_drawn_anew_are_the_same_at_another_world_size(anew: _Anew, tmp_path: Path) -> None:
    alone = anew.batches(tmp_path, "dynamic")
    shared = anew.batches(tmp_path, "dynamic", 0, 2) | anew.batches(tmp_path, "dynamic", 1, 2)
    for place, values in shared.items():
        if place in alone:
            assert torch.equal(values[0], alone[place][0])
            assert torch.equal(values[1], alone[place][1])
    assert len(set(shared) & set(alone)) > len(alone) / 2


def test_a_stage_trains_on_mixtures_drawn_anew_and_its_segment_says_from_what(anew: _Anew, tmp_path: Path) -> None:
    given = anew.context(tmp_path / "a")
    report = train.run(anew.config, given)
    assert (report.metrics["steps"], report.metrics["left out mixtures"]) == (6, 0)
    (segment,) = read_segments(given.folder / "segments.json")
    assert segment.settings["mixing"] == "dynamic"
    assert segment.settings["drawn_from"]
    again = anew.context(tmp_path / "b" / "b")
    train.run(dataclasses.replace(anew.config, loader_processes=1), again)  # who mixes them changes nothing
    first, second = (load_file(context.folder / "model.safetensors") for context in (given, again))
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    # Other recordings are another segment, also where the shards are the same.
    digests = {name: done.digest for name, done in anew.inputs.items()}
    assert train._drawn_from(anew.config, digests) == segment.settings["drawn_from"]
    assert train._drawn_from(anew.config, {**digests, "ingest": "more noise"}) != segment.settings["drawn_from"]
    assert anew.config.reads() == train.READS
    assert SMALL.reads() == ("simulate",)


def test_mixtures_can_be_drawn_anew_only_where_their_recordings_are_known(
    anew: _Anew, shards: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"train\.mixing=dynamic needs the recordings"):
        prepare(anew.config, Mixtures.read(shards), tmp_path / "x")
    context = Context(tmp_path / "y", inputs=dict.fromkeys(train.READS, UnrecordedOutput(shards)))
    with pytest.raises(UserError, match=r"needs mixing\.json of simulate"):
        train.run(anew.config, context)
    with pytest.raises(ValueError, match="mel_cache"):
        dataclasses.replace(anew.config, mel_cache=True)


def test_a_dataset_without_training_data_is_refused(tmp_path: Path, shards: Path) -> None:
    folder = tmp_path / "simulate"
    folder.mkdir()
    merge_indexes([shards / "test-00000.index.parquet"], folder / "index.parquet")
    with pytest.raises(UserError, match="no mixture of split train"):
        train.run(SMALL, here(tmp_path / "x", folder))


@pytest.mark.parametrize(("key", "value"), [("select", "first"), ("max_steps", 0)])
def test_impossible_settings_are_refused_by_name(key: str, value: object) -> None:
    with pytest.raises(ValueError, match=key):
        dataclasses.replace(SMALL, **{key: value})


def test_the_stage_is_importable_without_torch_and_ray() -> None:
    heavy = ["matplotlib", "mlflow", "pyarrow", "ray", "scipy", "torch"]
    code = f"import sys, pipelines.stages.train; print([name for name in {heavy} if name in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
