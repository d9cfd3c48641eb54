"""Train the DiT by conditional flow matching, or what predicts for it, on the simulated mixtures, in Ray Train.

Reads the shards and the index of `simulate`: split train to learn from, split dev to validate on.
Writes `model.safetensors` (averaged weights), `spec.json`, `history.parquet`, `loss.png` and `dataset.json`.
Drops nothing.
Fails nothing: a mixture that cannot be read, or a loss that is no number, stops the run and is named.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from flowse.audio.mel import LogMel
from flowse.audio.mel_config import MelConfig
from flowse.data.augment_config import AugmentConfig
from flowse.data.batching import Batch, CachedMels, Example, Loader, fixed_batches, mel_statistics
from flowse.data.mel_cache import MelCache
from flowse.data.shards import IndexRow, ShardError, read_index, read_mixture
from flowse.errors import UserError
from flowse.export import ExportError
from flowse.files import write_json
from flowse.flow.config import DrawConfig, FlowConfig, LossConfig
from flowse.model.spec import DiTConfig, MaskUNetConfig, ModelSpec
from flowse.seeding import derive_seed, generator
from flowse.tokenizer import Tokenizer
from flowse.training.checkpoint import CheckpointError, State, latest, path_of, read_state
from flowse.training.config import PARALLEL, LoopConfig, OptimConfig
from flowse.training.loop import NonFiniteLoss, Progress, TrainBatch, Trainer
from flowse.training.optim import freeze
from flowse.training.start import Start, becomes_predictor, initial_system, refining, starting_point
from flowse.training.throughput import peak_flops, training_flops_per_frame
from pipelines.engine.accounts import StageReport, Tally
from pipelines.engine.resources import Resources
from pipelines.engine.stage import StageContext, StageOutput
from pipelines.engine.step_log import Desk, Scribe, plot_history, read_history, told

NAME = "train"
READS = ("simulate",)
REVISION = 1

SELECT = ("best", "last")


@dataclass(frozen=True, kw_only=True)
class Config:
    """How to train; the defaults suit a laptop and a small dataset.

    Attributes:
        mel: The mel; the vocoder must share it, and `mel.sample_rate` the shards.
        model: Size and form of the network.
        flow: Where the path begins.
        objective: "flow", or "regression": the clean mel in one pass, by the predictor alone.
        predictor: What estimates in one pass, for "regression" and for ``flow.source`` "predicted": "dit", the flow's
            own network, or "unet", a mask U-Net, which needs far less training.
        unet: Size of the mask U-Net.
        loss: Weights of the loss terms.
        augment: How pairs are changed as they are read.
        draw: How time and withheld conditions are drawn.
        optim: Optimiser, schedule, moving average.
        text: Condition on transcripts as well.
        max_steps: Optimiser steps.
        frames_per_step: Mel frames of a step at most, padding included, over all workers.
        max_frames: Longer mixtures are cropped, anew in each epoch.
        validate_every: Steps between two validations.
        validation_utterances: Mixtures of split dev to validate on; always the same.
        patience: Validations without a lower loss until training stops; 0: never.
        select: Which averaged weights to hand on: "best" by validation loss, or "last".
        precision: "fp32", or "bf16" (autocast).
        explode_norm: A gradient norm above this stops the run.
        statistics_utterances: Mixtures that the mel's mean and deviation are measured on.
        init_from: Start from these weights: an export, this stage's folder, a checkpoint; empty: from
            scratch. Mel, model, flow, objective and vocabulary are then those of the start. One exception: where
            ``flow.source`` is "predicted" and the start was trained by regression, the start becomes the
            predictor, and the flow's network is new, of the start's width and ``model.depth`` blocks.
        freeze: Shell-style patterns of parameters that stay as they are, e.g. ``network.blocks.[0-2].*``.
        micro_frames: Frames of one forward pass of a worker at most; more are accumulated. 0: no limit.
        checkpoint_every: Steps between two checkpoints.
        keep_last: Checkpoints kept besides the best.
        log_every: Steps between two records of the curves.
        examples: Enhanced examples of split dev logged at every validation.
        vocoder: Model that makes their audio; empty: spectrograms only.
        loader_threads: Threads that read ahead, a worker.
        mel_cache: Compute all log-mels once, before the first step, and read them from disk ever after (16 bits a
            value; about as large as the shards): where decoding audio is what GPUs wait for.
        parallel: "ddp", or "fsdp": weights and optimiser sharded over the workers.
        compile: Compile the network.
        activation_checkpointing: Trade a third of the speed for memory.
        max_failures: How often a dead worker is replaced; all go on from the newest checkpoint.
    """

    mel: MelConfig = field(default_factory=MelConfig)
    model: DiTConfig = field(default_factory=DiTConfig)
    flow: FlowConfig = field(default_factory=FlowConfig)
    objective: str = "flow"
    predictor: str = "dit"
    unet: MaskUNetConfig = field(default_factory=MaskUNetConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    draw: DrawConfig = field(default_factory=DrawConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    text: bool = False
    max_steps: int = 1000
    frames_per_step: int = 6000
    max_frames: int = 1500
    validate_every: int = 200
    validation_utterances: int = 32
    patience: int = 0
    select: str = "best"
    precision: str = "fp32"
    explode_norm: float = 1e4
    statistics_utterances: int = 200
    mel_cache: bool = False
    init_from: str = field(default="", metadata={"model": True})
    freeze: tuple[str, ...] = ()
    micro_frames: int = field(default=0, metadata={"fingerprint": False})
    checkpoint_every: int = field(default=200, metadata={"fingerprint": False})
    keep_last: int = field(default=2, metadata={"fingerprint": False})
    log_every: int = field(default=10, metadata={"fingerprint": False})
    examples: int = field(default=2, metadata={"fingerprint": False})
    vocoder: str = field(default="", metadata={"fingerprint": False})
    loader_threads: int = field(default=1, metadata={"fingerprint": False})
    parallel: str = field(default="ddp", metadata={"fingerprint": False})
    compile: bool = field(default=False, metadata={"fingerprint": False})
    activation_checkpointing: bool = field(default=False, metadata={"fingerprint": False})
    max_failures: int = field(default=3, metadata={"fingerprint": False})

    def __post_init__(self) -> None:
        if self.select not in SELECT:
            raise ValueError(f"select is {self.select!r}; allowed: {', '.join(SELECT)}")
        if self.parallel not in PARALLEL:
            raise ValueError(f"parallel is {self.parallel!r}; allowed: {', '.join(PARALLEL)}")
        if not 2 <= self.max_frames <= self.frames_per_step:
            raise ValueError(
                f"max_frames is {self.max_frames}; it must be at least 2 and at most frames_per_step, "
                f"{self.frames_per_step}"
            )
        if 0 < self.micro_frames < self.max_frames:
            raise ValueError(
                f"micro_frames is {self.micro_frames}; it must be 0 or at least max_frames, {self.max_frames}"
            )
        for name in ("statistics_utterances", "loader_threads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        self.spec()
        self.loop()

    def loop(self) -> LoopConfig:
        """The part that the training loop needs."""
        names = {item.name for item in dataclasses.fields(LoopConfig)}
        return LoopConfig(**{name: getattr(self, name) for name in names})

    def spec(self) -> ModelSpec:
        """What the model is, as far as the configuration says; vocabulary and statistics are still to come."""
        return ModelSpec(
            mel=self.mel,
            model=self.model,
            flow=self.flow,
            objective=self.objective,
            predictor=self.predictor,
            unet=self.unet,
        )


@dataclass(frozen=True)
class Job:
    """All that a worker needs; small and picklable.

    Attributes:
        config: The stage's.
        spec: What to train.
        start: Weights to start from; None: from scratch.
        seed: The experiment's.
        shards: Folder of the shards and their index.
        state: Folder of checkpoints, history and progress; shared by all workers.
        identity: What the run is about; a checkpoint of another is refused.
        tracking_uri: MLflow; empty: not tracked.
        run_id: The stage's MLflow run.
        threads: Threads of a worker.
    """

    config: Config
    spec: ModelSpec
    start: Start | None
    seed: int
    shards: Path
    state: Path
    identity: Mapping[str, Any]
    tracking_uri: str
    run_id: str
    threads: int

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return self.state / "checkpoints"


class Worker:
    """One rank of the training: its share of the data, its copy of the model."""

    def __init__(self, job: Job, rank: int = 0, world_size: int = 1, device: str = "cpu") -> None:
        """Build model and loader, and go to the newest checkpoint.

        Args:
            job: What to do.
            rank: Of this process.
            world_size: Number of processes.
            device: Where to compute.
        """
        config, spec = job.config, job.spec
        torch.set_num_threads(job.threads)
        torch.manual_seed(derive_seed(job.seed, NAME, "weights"))
        system = initial_system(spec, job.start)
        freeze(system, config.freeze)
        system.activation_checkpointing(config.activation_checkpointing)
        log_mel, read = LogMel(spec.mel), reader(job.shards, spec)
        train, dev = (split_rows(job.shards, split) for split in ("train", "dev"))
        seed = derive_seed(job.seed, NAME)
        loader = Loader(
            train,
            cached(job, train, log_mel, rank, world_size) if config.mel_cache else read,
            log_mel,
            lambda batch: TrainBatch.drawn(batch, config.draw),
            frames_per_step=config.frames_per_step,
            max_frames=config.max_frames,
            micro_frames=config.micro_frames,
            augment=config.augment,
            seed=seed,
            rank=rank,
            world_size=world_size,
            threads=config.loader_threads,
        )
        order = generator(derive_seed(seed, "validation")).permutation(len(dev))
        chosen = [dev[index] for index in order[: config.validation_utterances]]
        fixed = fixed_batches(
            chosen,
            read,
            log_mel,
            frames_per_batch=config.micro_frames or config.frames_per_step,
            max_frames=config.max_frames,
            seed=seed,
            rank=rank,
            world_size=world_size,
        )
        # Validation asks how well the flow goes with all that it is given: nothing is withheld.
        calm = DrawConfig(drop_condition=0.0, drop_text=0.0, drop_both=0.0)
        self.trainer = Trainer(
            system,
            loader,
            [TrainBatch.drawn(batch, calm) for batch in fixed],
            config=config.loop(),
            optim=config.optim,
            loss=config.loss,
            folder=job.checkpoints,
            seed=seed,
            identity=job.identity,
            device=device,
            parallel=config.parallel,
            compile_network=config.compile,
        )
        peak = peak_flops(device)
        frames = round(sum(loader.frames) / len(loader.frames))
        self.frames_per_s_at_peak = peak and world_size * peak / training_flops_per_frame(spec, frames)
        """Frames a second if all GPUs did nothing but this model's arithmetic; None where their peak is not known."""
        self.examples: Batch | None = None
        if chosen[: config.examples]:
            (self.examples, *_) = fixed_batches(
                chosen[: config.examples],
                read,
                log_mel,
                frames_per_batch=10**9,
                max_frames=config.max_frames,
                seed=seed,
            )

    def __call__(self, listen: Callable[[Progress], None]) -> None:
        """Train to the end; `listen` hears of every log, validation and checkpoint."""
        for progress in self.trainer.run():
            listen(progress)


def run(config: Config, context: StageContext) -> StageReport:
    """Train on the cluster, then hand on the averaged weights."""
    simulated = context.inputs["simulate"]
    train, dev = (split_rows(simulated.folder, split) for split in ("train", "dev"))
    if not train:
        raise UserError(f"train: {simulated.folder} holds no mixture of split train; look at the splits of ingest")
    _check_rate(config, train[0])
    dataset = json.loads(simulated.file("dataset.json").read_text(encoding="utf-8"))
    context.storage.mkdir(parents=True, exist_ok=True)
    spec, start = _prepare(config, context, train)
    unknown = _unknown_symbols(spec, [*train, *dev])
    if unknown:
        context.say(f"{NAME:<16} {unknown} symbols of the transcripts are not in the vocabulary: read as a space")
    if not dev:
        context.say(f"{NAME:<16} no mixture of split dev: nothing is validated, the last weights are handed on")
    job = Job(
        config=config,
        spec=spec,
        start=start,
        seed=context.seed,
        shards=simulated.folder.resolve(),
        state=context.storage.resolve(),
        identity={
            "stage": context.folder.name,
            "dataset": dataset["digest"],
            "spec": spec.to_dict(),
            "config": {
                item.name: value
                for item, value in zip(dataclasses.fields(config), dataclasses.asdict(config).values(), strict=True)
                if item.metadata.get("fingerprint", True)
            },
        },
        tracking_uri=context.tracker.uri if context.tracker.run_id else "",
        run_id=context.tracker.run_id or "",
        threads=max(1, context.resources.num_cpus),
    )
    context.tracker.tags({"dataset_digest": str(dataset["digest"])})
    workers = _workers(context.resources)
    if not _is_finished(job):
        with told(job.state, context.say):
            _fit(job, workers, context.resources, f"{NAME}-{context.folder.name}")
    history = list(read_history(job.state))
    state = read_state(_newest(job))
    chosen = (
        path_of(job.checkpoints, state.best_step) if config.select == "best" and state.best_step > 0 else _newest(job)
    )
    _write_outputs(context, job, chosen, history, simulated)
    taken = Tally.of(row.seconds for row in [*train, *dev])
    metrics = {"steps": state.step, "unknown_symbols": unknown, **_last_figures(history, state)}
    note = f"weights of step {read_state(chosen).step} of {state.step} ({state.finished}), {workers} worker(s)"
    return StageReport(taken=taken, kept=taken, metrics=metrics, notes=(note,))


def split_rows(shards: Path, split: str) -> list[IndexRow]:
    """Return the index rows of one split, ordered by key."""
    return sorted((row for row in read_index(shards / "index.parquet") if row.split == split), key=lambda row: row.key)


def cached(
    job: Job, rows: Sequence[IndexRow], log_mel: LogMel, rank: int, world_size: int
) -> Callable[[Any], Example | CachedMels]:
    """Build this rank's share of the mel cache, wait for the others, and return a function that reads from it."""
    cache = MelCache(
        job.state / "mels", rows, reader(job.shards, dataclasses.replace(job.spec, vocabulary=())), log_mel
    )
    tokens = token_reader(job.spec)
    mine, begun = cache.missing()[rank::world_size], time.monotonic()
    with ThreadPoolExecutor(job.threads) as pool:
        for done, _ in enumerate(pool.map(cache.build, mine), start=1):
            if rank == 0:
                seconds = time.monotonic() - begun
                write_json(job.state / "progress.json", {"cached": done, "shards": len(mine), "seconds": seconds})
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
    # A rank that looked later saw fewer missing ones and so took other shares: what nobody took is built now.
    for shard in cache.missing():
        cache.build(shard)
    return lambda row: cache.read(row, tokens(row))


def token_reader(spec: ModelSpec) -> Callable[[IndexRow], Sequence[int]]:
    """Return a function that gives the tokens of a row's text; none, if the model has no vocabulary."""
    tokenizer = Tokenizer(spec.vocabulary) if spec.vocabulary else None
    return lambda row: tokenizer.encode(row.text, row.language).ids if tokenizer and row.text else ()


def reader(shards: Path, spec: ModelSpec) -> Callable[[Any], Example]:
    """Return a function that reads one index row's waveforms and, if the model has a vocabulary, its tokens."""
    tokens = token_reader(spec)

    def read(row: IndexRow) -> Example:
        mixture = read_mixture(shards, row)
        return Example(mixture.noisy, mixture.clean, tokens(row))

    return read


def _check_rate(config: Config, row: IndexRow) -> None:
    rate = round(row.samples / row.seconds)
    if rate != config.mel.sample_rate:
        raise UserError(
            f"train.mel.sample_rate is {config.mel.sample_rate}, but the shards have {rate}; make them equal"
        )


def _prepare(config: Config, context: StageContext, train: Sequence[IndexRow]) -> tuple[ModelSpec, Start | None]:
    """Fix what is trained: from the start's spec, an earlier try's, or newly measured statistics."""
    if config.init_from:
        start = starting_point(config.init_from)
        if start.spec.mel != config.mel:
            raise UserError(f"train.mel differs from the mel of {config.init_from}: {config.mel} and {start.spec.mel}")
        if becomes_predictor(start.spec, config.spec()):
            context.say(f"{NAME:<16} {start.weights} becomes the predictor; the flow's network is new")
            return refining(start.spec, config.spec()), start
        context.say(
            f"{NAME:<16} starts from {start.weights}: model, flow, objective, vocabulary and statistics are its own"
        )
        return start.spec, start
    path = context.storage / "spec.json"
    if path.exists():
        return ModelSpec.from_dict(json.loads(path.read_text(encoding="utf-8"))), None
    spec = config.spec()
    if config.text:
        spec = dataclasses.replace(spec, vocabulary=Tokenizer.default().vocabulary)
    read = reader(context.inputs["simulate"].folder, config.spec())
    seed = derive_seed(context.seed, NAME)
    mean, deviation = mel_statistics(train, read, LogMel(spec.mel), limit=config.statistics_utterances, seed=seed)
    spec = dataclasses.replace(spec, mel_mean=mean, mel_std=deviation)
    write_json(path, spec.to_dict())
    return spec, None


def _unknown_symbols(spec: ModelSpec, rows: Sequence[IndexRow]) -> int:
    if not spec.vocabulary:
        return 0
    tokenizer = Tokenizer(spec.vocabulary)
    return sum(tokenizer.encode(row.text, row.language).n_unknown for row in rows if row.text)


def _workers(resources: Resources) -> int:
    """Return how many workers to start: as configured, else two if the cluster holds them.

    Raises:
        UserError: The cluster cannot hold as many as configured; Ray would wait for ever.
    """
    import ray

    cluster = ray.cluster_resources()
    fits = int(cluster.get("CPU", 0) // max(resources.num_cpus, 1))
    if resources.num_gpus:
        fits = min(fits, int(cluster.get("GPU", 0) / resources.num_gpus))
    wanted = resources.workers or min(2, fits)
    if not 0 < wanted <= fits:
        raise UserError(
            f"train: {max(wanted, 1)} worker(s) of {resources.num_cpus} CPUs and {resources.num_gpus:g} GPUs do not "
            f"fit into the cluster ({cluster.get('CPU', 0):g} CPUs, {cluster.get('GPU', 0):g} GPUs); lower "
            "cluster.stages.train.workers, .num_cpus or .num_gpus"
        )
    return wanted


def _fit(job: Job, workers: int, resources: Resources, name: str) -> None:
    """Train in Ray Train until the run is finished.

    Raises:
        UserError: A worker named what is wrong, or the group died too often.
    """
    import ray.train
    from ray.train.torch import TorchConfig, TorchTrainer

    (job.state / "verdict.json").unlink(missing_ok=True)
    per_worker: dict[str, float] = {"CPU": max(1, resources.num_cpus)}
    if resources.num_gpus:
        per_worker["GPU"] = resources.num_gpus
    # Our own checkpoints decide where to go on. Ray's run of this name, if one was cut off, must not: it
    # would be restored, and a finished one returned without training.
    shutil.rmtree(job.state / "ray" / name, ignore_errors=True)
    trainer = TorchTrainer(
        _train_worker,
        train_loop_config={"job": job},
        torch_config=TorchConfig(backend="nccl" if resources.num_gpus else "gloo"),
        scaling_config=ray.train.ScalingConfig(
            num_workers=workers, use_gpu=resources.num_gpus > 0, resources_per_worker=per_worker
        ),
        run_config=ray.train.RunConfig(
            name=name,
            storage_path=str(job.state / "ray"),
            failure_config=ray.train.FailureConfig(max_failures=job.config.max_failures),
        ),
    )
    failure: BaseException | None = None
    try:
        trainer.fit()
    except ray.train.TrainingFailedError as error:
        failure = error
    verdict = job.state / "verdict.json"
    if verdict.exists():
        raise UserError(f"train: {json.loads(verdict.read_text(encoding='utf-8'))['error']}")
    if failure is not None:
        lines = str(failure).strip().splitlines()
        raise UserError(
            f"train: the workers died {job.config.max_failures + 1} times, last: {lines[-1] if lines else failure}; a "
            f"rerun goes on from the newest checkpoint in {job.checkpoints}"
        ) from failure


def _train_worker(arguments: dict[str, Any]) -> None:
    """Be one rank of Ray Train's group."""
    import ray.train
    import ray.train.torch

    job: Job = arguments["job"]
    verdict = job.state / "verdict.json"
    if verdict.exists():
        # The group was restarted after an error that a restart does not mend.
        return
    group = ray.train.get_context()
    rank = group.get_world_rank()
    device = str(ray.train.torch.get_device())
    try:
        worker = Worker(job, rank, group.get_world_size(), device)
        worker(_listener(job, worker, rank))
    except (NonFiniteLoss, CheckpointError, ShardError, ExportError) as error:
        write_json(verdict, {"error": str(error), "rank": rank})
        raise


def _listener(job: Job, worker: Worker, rank: int) -> Callable[[Progress], None]:
    """Return what a rank does with its progress: rank 0 writes it down, and examples are enhanced."""
    scribe = None
    if rank == 0:
        desk = Desk(job.state, job.tracking_uri, job.run_id, job.spec.mel, job.config.vocoder)
        trainer = worker.trainer
        scribe = Scribe(desk, trainer.state, trainer.resumed_from, worker.frames_per_s_at_peak)
    sharded = job.config.parallel == "fsdp"

    def listen(progress: Progress) -> None:
        if scribe is not None:
            scribe.write(progress)
        batch = worker.examples
        if batch is not None and progress.validation is not None and (sharded or scribe is not None):
            enhanced = worker.trainer.enhance(batch)
            if scribe is not None:
                scribe.show(progress.step, batch, enhanced)

    return listen


def _is_finished(job: Job) -> bool:
    """Whether an earlier try trained to the end and died before its outputs were written."""
    path = latest(job.checkpoints)
    return path is not None and bool(read_state(path).finished)


def _newest(job: Job) -> Path:
    path = latest(job.checkpoints)
    if path is None or not read_state(path).finished:
        raise UserError(f"train: the workers ended without a finished checkpoint in {job.checkpoints}; run again")
    return path


def _write_outputs(
    context: StageContext, job: Job, chosen: Path, history: Sequence[Mapping[str, float]], simulated: StageOutput
) -> None:
    with context.write("model.safetensors") as path:
        shutil.copyfile(chosen / "ema.safetensors", path)
    with context.write("spec.json") as path:
        path.write_text(json.dumps(job.spec.to_dict(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    with context.write("dataset.json") as path:
        shutil.copyfile(simulated.file("dataset.json"), path)
    names = list(dict.fromkeys(name for record in history for name in record))
    table = pa.table({name: pa.array([record.get(name) for record in history], pa.float64()) for name in names})
    with context.write("history.parquet") as path:
        pq.write_table(table, path)
    with context.write("loss.png") as path:
        plot_history(history, path)
    context.tracker.artifact(context.folder / "loss.png")
    context.tracker.artifact(context.folder / "spec.json")


def _last_figures(history: Sequence[Mapping[str, float]], state: State) -> dict[str, float]:
    figures = {name: history[-1][name] for name in ("train_loss", "frames_per_s", "restarts") if history}
    if state.best_step > 0:
        figures |= {"best_validation_loss": state.best_loss, "best_step": float(state.best_step)}
    return figures
