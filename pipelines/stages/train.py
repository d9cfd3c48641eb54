"""Train the flow-matching DiT, or the regression predictor it starts from, with Ray Train or in this process.

Reads the shards and the index of `simulate`: split train to learn from, split dev to validate on.
Writes `model.safetensors` (averaged weights), `spec.json`, `history.parquet`, `loss.png` and `dataset.json`.
Drops nothing.
Fails nothing: a mixture that cannot be read, or a loss that is not finite, stops the training and is named.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flowse.errors import UserError
from flowse.training.config import TrainConfig
from pipelines.engine.accounts import StageReport, Tally
from pipelines.engine.resources import Capacity, Resources
from pipelines.engine.stage import StageContext

if TYPE_CHECKING:
    from flowse.training.job import Job

NAME = "train"
READS = ("simulate",)
REVISION = 1


@dataclass(frozen=True, kw_only=True)
class Config(TrainConfig):
    """How to train; the defaults suit a laptop and a small dataset.

    Attributes, besides those of `TrainConfig` and `LoopConfig` in `flowse.training.config`:
        max_failures: How often dead workers are replaced; all of them resume from the newest checkpoint.
    """

    max_failures: int = field(default=3, metadata={"fingerprint": False})


def run(config: Config, context: StageContext) -> StageReport:
    """Train on the cluster, or in this process where everything runs there, and write the selected averaged weights."""
    from flowse.training.job import prepare
    from flowse.training.mixtures import DATASET, INDEX, Mixtures, count_unknown_symbols
    from flowse.training.trained import Trained
    from pipelines.engine.step_log import progress_reported

    simulated = context.inputs["simulate"]
    # The lists are hashed here; of the shards every member is checked when it is read (`read_mixture`).
    for name in (INDEX, DATASET):
        if (simulated.folder / name).exists():
            simulated.file(name)
    mixtures = Mixtures.read(simulated.folder)
    job = prepare(
        config,
        mixtures,
        context.storage,
        seed=context.seed,
        threads=max(1, context.resources.num_cpus),
        name=context.folder.name,
    )
    if job.start is not None:
        context.say(f"{NAME:<16} {job.start.describe(job.spec)}")
    rows = [*mixtures.train, *mixtures.dev]
    unknown = count_unknown_symbols(job.spec, rows)
    if unknown:
        context.say(f"{NAME:<16} {unknown} symbols of the transcripts are not in the vocabulary: read as a space")
    if not mixtures.dev:
        context.say(f"{NAME:<16} no mixture of split dev: nothing is validated, the last weights are handed on")
    context.tracker.tags({"dataset_digest": mixtures.digest})
    workers = _workers(context.resources, context.capacity)
    if not job.is_finished:
        with progress_reported(job.folder, lambda line: context.say(f"{NAME:<16} {line}")):
            if context.local:
                _train_here(job, context)
            else:
                _train_on_ray(job, config.max_failures, workers, context)
    trained = Trained.of(job)
    trained.write(context.write)
    for name in ("loss.png", "spec.json"):
        context.tracker.artifact(context.folder / name)
    taken = Tally.of(row.seconds for row in rows)
    state = trained.state
    note = f"weights of step {trained.step} of {state.step} ({state.finished}), {workers} worker(s)"
    metrics = {**trained.figures(), "unknown_symbols": float(unknown)}
    return StageReport(taken=taken, kept=taken, metrics=metrics, notes=(note,))


def _workers(resources: Resources, capacity: Capacity) -> int:
    """Return how many workers to start: as configured, else two if the cluster holds them.

    Raises:
        UserError: The cluster cannot hold as many as configured; Ray would wait for ever.
    """
    fits = capacity.fits(resources)
    wanted = resources.workers or min(2, fits)
    if not 0 < wanted <= fits:
        raise UserError(
            f"train: {max(wanted, 1)} worker(s) of {resources.num_cpus} CPUs and {resources.num_gpus:g} GPUs do not "
            f"fit into the cluster ({capacity.cores:g} CPUs, {capacity.gpus:g} GPUs); lower "
            "cluster.stages.train.workers, .num_cpus or .num_gpus"
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
        _train_rank(job, _mlflow_of(context), 0, 1, "cuda" if context.resources.num_gpus else "cpu")
    except PERMANENT_ERRORS as error:
        raise UserError(f"train: {error}") from error


def _train_on_ray(job: Job, max_failures: int, workers: int, context: StageContext) -> None:
    """Train in Ray Train until the training is finished.

    Raises:
        UserError: A worker named what is wrong, or the group died too often.
    """
    import ray.train
    from ray.train.torch import TorchConfig, TorchTrainer

    resources, name = context.resources, f"{NAME}-{context.folder.name}"
    verdict = _verdict(job)
    verdict.unlink(missing_ok=True)
    per_worker: dict[str, float] = {"CPU": max(1, resources.num_cpus)}
    if resources.num_gpus:
        per_worker["GPU"] = resources.num_gpus
    # Our own checkpoints decide where to resume. Ray's run of this name, if one was cut off, must not: Ray would
    # restore it, and return a finished one without training.
    shutil.rmtree(job.folder / "ray" / name, ignore_errors=True)
    trainer = TorchTrainer(
        _train_worker,
        train_loop_config={"job": job, "mlflow": _mlflow_of(context)},
        torch_config=TorchConfig(backend="nccl" if resources.num_gpus else "gloo"),
        scaling_config=ray.train.ScalingConfig(
            num_workers=workers, use_gpu=resources.num_gpus > 0, resources_per_worker=per_worker
        ),
        run_config=ray.train.RunConfig(
            name=name,
            storage_path=str(job.folder / "ray"),
            failure_config=ray.train.FailureConfig(max_failures=max_failures),
        ),
    )
    failure: BaseException | None = None
    try:
        trainer.fit()
    except ray.train.TrainingFailedError as error:
        failure = error
    if verdict.exists():
        raise UserError(f"train: {verdict.read_text(encoding='utf-8')}")
    if failure is not None:
        lines = str(failure).strip().splitlines()
        raise UserError(
            f"train: the workers died {max_failures + 1} times, last: {lines[-1] if lines else failure}; a "
            f"rerun goes on from the newest checkpoint in {job.checkpoints}"
        ) from failure


def _verdict(job: Job) -> Path:
    """Return the file in which a worker names an error that a restart does not mend."""
    return job.folder / "verdict.txt"


def _train_worker(arguments: dict[str, Any]) -> None:
    """Run one rank of Ray Train's worker group."""
    import ray.train
    import ray.train.torch

    from flowse.files import write_text
    from flowse.training.rank import PERMANENT_ERRORS

    job: Job = arguments["job"]
    if _verdict(job).exists():
        return  # the group was restarted after an error that a restart does not mend
    group = ray.train.get_context()
    rank, device = group.get_world_rank(), str(ray.train.torch.get_device())
    try:
        _train_rank(job, arguments["mlflow"], rank, group.get_world_size(), device)
    except PERMANENT_ERRORS as error:
        write_text(_verdict(job), str(error))
        raise


def _train_rank(job: Job, mlflow: tuple[str, str], rank: int, world_size: int, device: str) -> None:
    """Train one rank's share to the last step; rank 0 also keeps the history, in MLflow too if there is a run."""
    from flowse.training.history import History
    from flowse.training.rank import Rank
    from pipelines.engine.step_log import StepLog

    this_rank = Rank(job, rank, world_size, device)
    history = None
    if rank == 0:
        state, at_peak = this_rank.trainer.state, this_rank.frames_per_s_at_peak
        history = StepLog(this_rank, *mlflow) if all(mlflow) else History(job, state, at_peak)
    this_rank.train(history=history)
