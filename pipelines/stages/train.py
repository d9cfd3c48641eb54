"""Train the flow-matching DiT, or the regression predictor it starts from, with Ray Train or in this process.

Reads the shards and the index of `simulate`: split train to learn from, split dev to validate on. With
`mixing: dynamic` also what simulate reads: noises of `ingest`, speech of `transcribe`, responses of `rooms`.
Writes `model.safetensors` (averaged weights), `spec.json`, `segments.json`, `history.parquet`, `loss.png`,
`dataset.json`; `skipped.parquet`, if something was left out, `notes.txt`, if there are notes, and `guard.json`, if a
guard was chosen.
Drops nothing: mixtures that cannot be read or have no finite loss are left out of the steps and listed.
Fails nothing: more of them than `max_skipped_share`, or more unapplied steps than `max_skipped_steps`, stop it.

A run of training goes on through changes of its settings and data: each is a segment, see `flowse.training.ledger`.
Runs are kept beside the outputs, in `.runs`, and the index by column, which ranks map into memory, in `.index`.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flowse.errors import UserError
from flowse.flow.guard import GUARD, Guard, GuardConfig
from flowse.pretrained import resolve
from flowse.seeding import derive_seed, generator
from flowse.training.config import TrainConfig
from flowse.training.ledger import Choice, RunState, Segment, choose_run, retire_runs, run_identity
from flowse.training.stopping import StopRequest, request_stop, withdraw_stop
from pipelines.engine.accounts import StageReport, Tally
from pipelines.engine.cluster import is_this_machine
from pipelines.engine.fingerprint import content_of, model_digest
from pipelines.engine.resources import Capacity, Resources
from pipelines.engine.run_folder import followed, kept
from pipelines.engine.shipping import Origin, Parcel
from pipelines.engine.stage import StageContext

if TYPE_CHECKING:
    from flowse.simulation.redraw import Redraw
    from flowse.training.job import Job
    from flowse.training.mixtures import Mixtures
    from flowse.training.progress import Progress
    from flowse.training.rank import Rank
    from flowse.training.trained import Trained

NAME = "train"
READS = ("ingest", "rooms", "transcribe", "simulate")
REVISION = 2

_RUNS, _INDEX = ".runs", ".index"


@dataclass(frozen=True, kw_only=True)
class Config(TrainConfig):
    """How to train; the defaults suit a laptop and a small dataset.

    Attributes, besides those of `TrainConfig` and `LoopConfig` in `flowse.training.config`:
        continue_: Whether a run of the same network, mel, flow, vocabulary and seed goes on with other settings or
            data, if the workspace has one (`train.continue`); False: another run begins. An interrupted run is always
            resumed.
        max_failures: How often dead workers are replaced; all of them resume from the newest checkpoint.
        min_workers: Fewest workers that train while the cluster has no room for all of `cluster.stages.train.workers`;
            0: as many.
        guard: Of a flow that refines a predictor's estimate: how its guard is chosen on split dev after the training.
            `evaluate` then takes it, and `export` stores it with the model, unless `evaluate.sampling.guard` is set.
    """

    continue_: bool = field(default=True, metadata={"fingerprint": False, "key": "continue"})
    guard: GuardConfig = field(default=GuardConfig(), metadata={"fingerprint": "unless default"})
    max_failures: int = field(default=3, metadata={"fingerprint": False})
    min_workers: int = field(default=0, metadata={"fingerprint": False})

    def reads(self) -> tuple[str, ...]:
        """Return the stages that this needs: those that simulate reads only where mixtures are drawn anew."""
        return READS if self.mixing == "dynamic" else ("simulate",)


def continues(
    config: Config,
    seed: int,
    inputs: Mapping[str, str],
    folder: Path,
    has_output: Callable[[Mapping[str, Any]], bool],
) -> dict[str, Any]:
    """Return what the fingerprint has to hold besides the settings: the segments that a run has before this one.

    Args:
        config: The stage's settings.
        seed: The experiment's seed.
        inputs: Digest of each output that the stage reads.
        folder: Folder of the stage's outputs.
        has_output: Whether the output with the given addition to the fingerprint is finished.
    """
    choice = _choose(config, seed, inputs, folder, lambda before: has_output(_digests(before)))
    return _digests(choice.before)


def begin_anew(folder: Path, learned: Callable[[str], bool] | None = None) -> int:
    """Let no training go on with the runs that are there; return how many there were.

    Args:
        folder: Folder of the stage's outputs.
        learned: Says of a dataset's digest whether runs that learned from it are meant; None: all runs are.
    """
    return retire_runs(folder / _RUNS, learned)


def _digests(segments: Sequence[Segment]) -> dict[str, Any]:
    return {"segments before": [segment.digest for segment in segments]} if segments else {}


def _choose(
    config: Config, seed: int, inputs: Mapping[str, str], folder: Path, has_output: Callable[[Sequence[Segment]], bool]
) -> Choice:
    return choose_run(
        folder / _RUNS,
        run_identity(config, seed, _start_digest(config)),
        config,
        inputs["simulate"],
        drawn_from=_drawn_from(config, inputs),
        proceed=config.continue_,
        has_output=has_output,
    )


def _drawn_from(config: Config, inputs: Mapping[str, str]) -> str:
    """Hash what mixtures are drawn anew from; empty: they are not drawn anew."""
    named = [name for name in config.reads() if name != "simulate"]
    return content_of([inputs[name] for name in named])[:16] if named else ""


def _start_digest(config: Config) -> str:
    return model_digest(config.init_from) if config.init_from else ""


def run(config: Config, context: StageContext) -> StageReport:
    """Train on the cluster, or in this process where everything runs there, and write the selected averaged weights."""
    from flowse.data.token_ids import count_unknown_symbols
    from flowse.training.job import prepare
    from flowse.training.mixtures import DATASET, INDEX, Mixtures
    from flowse.training.trained import Trained
    from pipelines.engine.step_log import progress_reported

    simulated = context.inputs["simulate"]
    # The lists are hashed here; of the shards every member is checked when it is read (`read_mixture`).
    for name in (INDEX, DATASET):
        if (simulated.folder / name).exists():
            simulated.file(name)
    mixtures = Mixtures.read(simulated.folder, context.folder.parent.resolve() / _INDEX)
    dataset = simulated.digest or mixtures.digest
    inputs = {name: context.inputs[name].digest for name in config.reads()} | {"simulate": dataset}
    choice = _choose(config, context.seed, inputs, context.folder.parent, lambda before: False)
    for line in (choice.note, *(f"goes on after {segment.describe()}" for segment in choice.before[-1:])):
        if line:
            context.say(f"{NAME:<16} {line}")
    job = prepare(
        config,
        mixtures,
        choice.folder,
        seed=context.seed,
        threads=max(1, context.resources.num_cpus),
        dataset=dataset,
        start_digest=_start_digest(config),
        code_commit=context.code_commit,
        redraw=_redraw(context, _drawn_from(config, inputs)) if config.mixing == "dynamic" else None,
    )
    job = dataclasses.replace(job, collective_timeout_s=context.resources.collective_timeout_s)
    _require_guardable(config.guard, job, mixtures)
    if job.start is not None:
        context.say(f"{NAME:<16} {job.start.describe(job.spec)}")
    if config.lora.rank:
        context.say(f"{NAME:<16} adapters of {job.segment.base} are trained, its weights are frozen")
    unknown = sum(count_unknown_symbols(job.spec.vocabulary, rows) for rows in (mixtures.train, mixtures.dev))
    if unknown:
        context.say(f"{NAME:<16} {unknown} symbols of the transcripts are not in the vocabulary: read as a space")
    if not mixtures.dev:
        context.say(f"{NAME:<16} no mixture of split dev: nothing is validated, the last weights are handed on")
    context.tracker.tags({"dataset_digest": mixtures.digest})
    workers = _workers(context.resources, context.capacity, awaits_nodes=context.await_nodes_s > 0)
    if not job.is_finished:
        with progress_reported(job.folder, lambda line: context.say(f"{NAME:<16} {line}")):
            withdraw_stop(job.folder)
            with _stops_on_signal(job.folder):
                if context.local:
                    _train_here(job, context)
                else:
                    _train_on_ray(job, config, workers, context)
    trained = Trained.of(job)
    trained.write(context.write)
    guard = _guard(config.guard, trained, mixtures, context) if config.guard.mixtures else None
    for name in ("loss.png", "spec.json"):
        context.tracker.artifact(context.folder / name)
    taken = Tally.of(mixtures.seconds)
    state = trained.state
    notes = [f"weights of step {trained.step} of {state.step} ({state.finished}), {workers} worker(s)", *trained.notes]
    if guard is not None:
        notes.append(str(guard))
    left_out = trained.skipped
    if left_out.rows:
        last = left_out.rows[-1]
        notes.append(
            f"left out: {left_out.utterances} mixture(s), {left_out.skipped_steps} step(s), listed in skipped.parquet; "
            f"the last: {last.key}: {last.detail}"
        )
    metrics = {
        **trained.figures(),
        "unknown_symbols": float(unknown),
        "skipped steps": float(left_out.skipped_steps),
        "left out mixtures": float(left_out.utterances),
        "segments": float(len(state.segments)),
    }
    return StageReport(taken=taken, kept=taken, metrics=metrics, notes=tuple(notes))


def _redraw(context: StageContext, digest: str) -> Redraw:
    """Return what mixtures are drawn anew from: what simulate read. Its lists are made here, before ranks need them."""
    from flowse.simulation.redraw import MIXING, Mixing, Redraw

    inputs = context.inputs
    if not (inputs["simulate"].folder / MIXING).exists():
        raise UserError(
            f"train.mixing=dynamic needs {MIXING} of simulate, whose output an older version made; run simulate again "
            "with --force, it makes the same shards"
        )
    redraw = Redraw(
        mixing=Mixing.read(inputs["simulate"].file(MIXING)),
        roots=dict(context.roots),
        recordings=tuple(inputs["ingest"].parts(".parquet")),
        speech=tuple(inputs["transcribe"].parts(".parquet")),
        rooms=inputs["rooms"].file("index.parquet"),
        responses=tuple(inputs["rooms"].parts(".npy")),
        digest=digest,
        folder=context.folder.parent.resolve() / _INDEX / "redraw",
    )
    redraw.lists()
    return redraw


def _require_guardable(config: GuardConfig, job: Job, mixtures: Mixtures) -> None:
    """Refuse, before anything is trained, a guard that could not be chosen afterwards.

    Raises:
        UserError: The model has no predictor, split dev is empty, or there is no such vocoder.
    """
    if not config.mixtures:
        return
    if job.spec.objective != "flow" or job.spec.flow.source != "predicted":
        raise UserError("train.guard is for a flow that refines a prediction; set train.guard.mixtures=0")
    if not mixtures.dev:
        raise UserError("train.guard needs mixtures of split dev, and there are none; set train.guard.mixtures=0")
    try:
        resolve(config.vocoder)
    except FileNotFoundError as error:
        raise UserError(f"train.guard.vocoder: {error}") from None


def _guard(config: GuardConfig, trained: Trained, mixtures: Mixtures, context: StageContext) -> Guard:
    """Choose the guard of the selected weights on mixtures of split dev, always the same, and write it down."""
    import torch

    from flowse.data.shards import read_mixture
    from flowse.enhancer import Enhancer
    from flowse.export import ModelConfig
    from flowse.guard_choice import choose_guard
    from flowse.metrics.dnsmos import Dnsmos

    device = "cuda" if context.resources.num_gpus and torch.cuda.is_available() else "cpu"
    of = ModelConfig(spec=trained.spec, sampling=config.sampling)
    enhancer = Enhancer.from_parts(trained.system(device), of, resolve(config.vocoder))
    order = generator(derive_seed(context.seed, NAME, "guard")).permutation(len(mixtures.dev))
    spoken = (row for index in order if (row := mixtures.dev[int(index)]).has_speech)
    rows = list(itertools.islice(spoken, config.mixtures))
    noisy = [read_mixture(mixtures.folder, row).noisy for row in rows]
    guard = choose_guard(enhancer, noisy, trained.spec.mel.sample_rate, config, Dnsmos(context.resources.num_cpus))
    with context.write(GUARD) as path:
        guard.write(path)
    return guard


@contextmanager
def _stops_on_signal(folder: Path) -> Iterator[None]:
    """Let SIGTERM to the driver end the training with a checkpoint, wherever its ranks are."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda *_: request_stop(folder))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _workers(resources: Resources, capacity: Capacity, *, awaits_nodes: bool) -> int:
    """Return how many workers to start: as configured, else two if the cluster holds them.

    Args:
        resources: What one worker takes.
        capacity: What the cluster has now.
        awaits_nodes: Whether nodes come when there is work: Ray Train asks for them again and again.

    Raises:
        UserError: The cluster cannot hold as many as configured; Ray would wait for ever.
    """
    fits = capacity.fits(resources)
    if awaits_nodes:
        return resources.workers or max(1, min(2, fits))
    wanted = resources.workers or min(2, fits)
    if not 0 < wanted <= fits:
        raise UserError(
            f"train: {max(wanted, 1)} worker(s) of {resources} do not fit into the cluster ({capacity.cores:g} CPUs, "
            f"{capacity.gpus:g} GPUs); lower cluster.stages.train.workers, .num_cpus or .num_gpus, or let the run wait "
            "for nodes (cluster.await_nodes_s)"
        )
    return wanted


def _mlflow_of(context: StageContext) -> tuple[str, str]:
    """Return tracking URI and run of the stage's MLflow run; empty strings if it is not tracked."""
    return (context.tracker.uri, context.tracker.run_id) if context.tracker.run_id else ("", "")


def _train_here(job: Job, context: StageContext) -> None:
    """Train in this process alone.

    Raises:
        UserError: Naming what is wrong.
    """
    from flowse.training.rank import PERMANENT_ERRORS

    try:
        rank = _train_rank(job, _mlflow_of(context), 0, 1, "cuda" if context.resources.num_gpus else "cpu")
    except PERMANENT_ERRORS as error:
        raise UserError(f"train: {error}") from error
    if rank.trainer.stopped:
        raise _stopped(rank.trainer.state.step)


def _stopped(step: int) -> UserError:
    return UserError(
        f"train: stopped after step {step}, as asked, with a checkpoint; run again, and it goes on from there"
    )


def _train_on_ray(job: Job, config: Config, workers: int, context: StageContext) -> None:
    """Train in Ray Train until the training is finished.

    Raises:
        UserError: A worker named what is wrong, or the group died too often.
    """
    import ray.train
    from ray.train.torch import TorchConfig, TorchTrainer

    from flowse.training.history import read_history
    from pipelines.engine.step_log import MlflowCurves

    resources, name = context.resources, f"{NAME}-{context.folder.name}"
    verdict = _verdict(job)
    verdict.unlink(missing_ok=True)
    mlflow = _mlflow_of(context)
    later = mlflow if mlflow[0].startswith("sqlite:") and not is_this_machine() else ("", "")
    per_worker: dict[str, float] = {"CPU": max(1, resources.num_cpus), **resources.custom}
    if resources.num_gpus:
        per_worker["GPU"] = resources.num_gpus
    # Our own checkpoints decide where to resume. Ray's run of this name, if one was cut off, must not: Ray would
    # restore it, and return a finished one without training.
    shutil.rmtree(job.folder / "ray" / name, ignore_errors=True)
    if context.await_nodes_s:  # a group that waits for nodes is given up and asked for again after a minute otherwise
        os.environ["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = str(context.await_nodes_s)
    trainer = TorchTrainer(
        _train_worker,
        train_loop_config={
            "job": Parcel.of(job, Origin.of(job.folder)),
            "mlflow": ("", "") if all(later) else mlflow,
        },
        torch_config=TorchConfig(
            backend="nccl" if resources.num_gpus else "gloo", timeout_s=round(job.collective_timeout_s)
        ),
        scaling_config=ray.train.ScalingConfig(
            num_workers=(config.min_workers, workers) if 0 < config.min_workers < workers else workers,
            use_gpu=resources.num_gpus > 0,
            resources_per_worker=per_worker,
        ),
        run_config=ray.train.RunConfig(
            name=name,
            storage_path=str(job.folder / "ray"),
            failure_config=ray.train.FailureConfig(
                max_failures=config.max_failures, controller_failure_limit=1 if context.await_nodes_s else -1
            ),
        ),
    )
    failure: BaseException | None = None
    try:
        with followed(job.folder):
            trainer.fit()
    except ray.train.TrainingFailedError as error:
        failure = error
    if all(later):  # on a network file system sqlite's locks do not keep two machines apart: one process writes it
        MlflowCurves(*later, list(read_history(job.folder))).close()
    if verdict.exists():
        raise UserError(f"train: {verdict.read_text(encoding='utf-8')}")
    if failure is not None:
        lines = str(failure).strip().splitlines()
        raise UserError(
            f"train: the workers died {config.max_failures + 1} times, last: {lines[-1] if lines else failure}; a "
            f"rerun goes on from the newest checkpoint in {job.checkpoints}"
        ) from failure
    if not job.is_finished:
        raise _not_finished(job)


def _not_finished(job: Job) -> UserError:
    """Return the error of a training that ended without a failure before its last step, or seems to have."""
    from flowse.training.checkpoint import newest_whole

    _, faults = newest_whole(job.checkpoints)
    if faults:  # of the newest first: the ranks wrote it, so nobody asked them to stop before
        return UserError(
            f"train: the ranks have ended, and what they wrote last cannot be read here: {faults[0]}; run again, and "
            "it goes on from the newest whole checkpoint; if that repeats, compare the code's version on the machines"
        )
    state = RunState.read(job.folder)
    return _stopped(state.step if state else 0)


def _verdict(job: Job) -> Path:
    """Return the file in which a worker names an error that a restart does not mend."""
    return job.folder / "verdict.txt"


def _train_worker(arguments: dict[str, Any]) -> None:
    """Run one rank of Ray Train's worker group."""
    import ray.train
    import ray.train.torch

    from flowse.files import write_text
    from flowse.training.rank import PERMANENT_ERRORS

    job: Job = arguments["job"].open()
    group = ray.train.get_context()
    rank, device = group.get_world_rank(), str(ray.train.torch.get_device())
    with kept(job.folder, writes=rank == 0) as here:
        if _verdict(job).exists():
            return  # the group was restarted after an error that a restart does not mend
        try:
            _train_rank(job, _reached(arguments["mlflow"], here), rank, group.get_world_size(), device, _is_preempted)
        except PERMANENT_ERRORS as error:
            write_text(_verdict(job), str(error))
            raise


def _reached(mlflow: tuple[str, str], here: bool) -> tuple[str, str]:
    """Return tracking URI and run, or empty strings for a database on the driver's machine, if this is another."""
    return mlflow if here or not mlflow[0].startswith("sqlite:") else ("", "")


def _is_preempted() -> bool:
    """Whether a node of the worker group will be taken away soon; all ranks have to ask at the same time."""
    import ray.train

    return ray.train.get_preemption_info() is not None


def _train_rank(
    job: Job,
    mlflow: tuple[str, str],
    rank: int,
    world_size: int,
    device: str,
    is_preempted: Callable[[], bool] = lambda: False,
) -> Rank:
    """Train one rank's share to the last step; rank 0 also keeps the history, in MLflow too if there is a run."""
    from flowse.training.history import History
    from flowse.training.rank import Rank
    from pipelines.engine.step_log import StepLog

    def save_if_preempted(progress: Progress) -> None:
        # Ray Train starts the ranks elsewhere once the node is gone; they lose nothing that is in a checkpoint.
        if progress.checkpoint is None and is_preempted():
            this_rank.trainer.save()

    with StopRequest(job.folder) as stop:
        this_rank = Rank(job, rank, world_size, device, stop)
        history = None
        if rank == 0:
            state, at_peak = this_rank.trainer.state, this_rank.frames_per_s_at_peak
            history = StepLog(this_rank, *mlflow) if all(mlflow) else History(job, state, at_peak)
        try:
            this_rank.train(save_if_preempted, history)
        finally:
            if history is not None:
                history.close()
    return this_rank
