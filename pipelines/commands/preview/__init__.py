"""What a run would cost: hours in, rates, expected time and bytes, stage by stage, before it starts.

Every stage that would run is tried on what the one before left when it was tried (`trial`). Where the
workspace holds the record of a whole run with the same configuration, its rate is taken instead (`recorded`).
Nothing is written into the workspace.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import statistics
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from flowse.data.manifest import Utterance
from flowse.data.parquet import read_rows
from flowse.errors import UserError
from flowse.refusal import Refusal
from pipelines.commands.doctor import bytes_needed
from pipelines.commands.preview.recorded import recorded_rate, recorded_step_s
from pipelines.commands.preview.trial import Measured, Miniature, Trial, share_splits
from pipelines.engine import console
from pipelines.engine.accounts import Tally
from pipelines.engine.cluster import address_of, ray_cluster, this_machine
from pipelines.engine.local_units import torch_threads_restored
from pipelines.engine.plan import StagePlan
from pipelines.engine.resources import Capacity, Resources
from pipelines.engine.stage import reads_of
from pipelines.engine.unit_queue import WorkerSetupError
from pipelines.engine.workspace import StageFolder
from pipelines.experiment import ClusterConfig, ExperimentConfig
from pipelines.stages import train
from pipelines.stages.ingest import corpus_roots

_STEPS = 6  # of training; the first is not counted
_TRAIN_FRAMES = 4  # longest mixtures in a tried step, at most; the step's time grows with its frames
_BUSY = 1.25  # load by core from which on rates are worth little
_TRIED = (UserError, WorkerSetupError, Refusal, OSError, RuntimeError, ValueError, KeyError, ImportError)


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What one stage would cost, as far as it is known.

    Attributes:
        stage: Name of the stage.
        taken: What goes in; None if unknown.
        at_most: Whether `taken` is a bound: what an earlier stage drops is not known yet.
        work_s: Seconds of work, of all workers together; None if unknown.
        workers: Workers that share it; None if the cluster could not be asked.
        wall_s: Expected seconds from begin to end; None if unknown.
        bytes: To be written; None if unknown.
        source: Where this is known from, or why it is not.
        rate: In words, e.g. "210× real time a worker".
    """

    stage: str
    taken: Tally | None = None
    at_most: bool = False
    work_s: float | None = None
    workers: int | None = None
    wall_s: float | None = None
    bytes: float | None = None
    source: str = ""
    rate: str = ""


def capacity(cluster: ClusterConfig) -> Capacity | None:
    """Ask the cluster, or this machine if the configuration names none; None: the cluster cannot be asked."""
    if cluster.backend == "local" or not address_of(cluster):
        return this_machine(cluster)
    try:
        with ray_cluster(cluster) as found:
            return found
    except UserError as error:
        console.say(f"{error}; costs are given for one worker")
        return None


class Preview:
    """Estimates stage after stage; each is tried on what the one before left."""

    def __init__(
        self, config: ExperimentConfig, cluster: ClusterConfig, workspace: Path, found: Capacity | None
    ) -> None:
        self._config, self._cluster, self._workspace, self._capacity = config, cluster, workspace, found

    def costs(self, stages: Sequence[Any], plans: Mapping[str, StagePlan], running: Sequence[str]) -> Iterator[Cost]:
        """Yield the cost of every stage that would run.

        Args:
            stages: All stages in their order.
            plans: Where each stands.
            running: Names of those that would run.
        """
        outputs: dict[str, StageFolder | Miniature] = {
            name: plan.finished for name, plan in plans.items() if plan.finished is not None and name not in running
        }
        with tempfile.TemporaryDirectory(prefix="flowse-preview-") as scratch:
            made = self._workspace if "ingest" in outputs else Path(scratch)
            roots = corpus_roots(self._config.ingest, made / "made")
            for stage in stages:
                if stage.NAME not in running:
                    continue
                reads = reads_of(stage, getattr(self._config, stage.NAME))
                missing = [name for name in reads if name not in outputs]
                if missing:
                    yield Cost(stage=stage.NAME, source=f"unknown: nothing of {missing[0]} to try it on")
                    continue
                trial = Trial(
                    Path(scratch) / stage.NAME,
                    name=stage.NAME,
                    seed=self._config.seed,
                    inputs={name: outputs[name] for name in reads},
                    roots=roots,
                    resources=self._resources(stage.NAME),
                )
                try:
                    with torch_threads_restored():
                        cost = self._cost(stage, plans[stage.NAME], trial)
                except _TRIED as error:
                    why = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
                    yield Cost(stage=stage.NAME, source=f"unknown: {why}")
                    continue
                outputs[stage.NAME] = trial.output
                yield cost

    def _resources(self, stage: str) -> Resources:
        """Return what one worker has here: no GPU where this machine has none."""
        import torch

        asked: Resources = getattr(self._cluster.stages, stage)
        gpus = asked.num_gpus if torch.cuda.is_available() else 0.0
        return dataclasses.replace((self._capacity or this_machine(self._cluster)).resolve(asked), num_gpus=gpus)

    def _workers(self, asked: Resources, units: int | None) -> int | None:
        """Return how many workers of a stage would work at once; None: nobody knows."""
        if self._cluster.backend == "local":
            return 1
        if self._capacity is not None:
            return self._capacity.at_work(asked, units)
        return asked.workers if asked.workers is None or units is None else max(1, min(asked.workers, units))

    def _cost(self, stage: Any, plan: StagePlan, trial: Trial) -> Cost:
        if stage.NAME == "train":
            return self._training(plan, trial)
        if stage.NAME == "export":
            return Cost(stage="export", source="unknown; writes the model once and reloads it, minutes at most")
        stage.run(getattr(self._config, stage.NAME), trial)
        measured = trial.measured
        scale = max((source.scale for source in trial.inputs.values() if isinstance(source, Miniature)), default=1.0)
        guessed = any(isinstance(source, Miniature) for source in trial.inputs.values())
        if stage.NAME == "ingest":
            share_splits(trial.output.parts(".parquet"))
        if stage.NAME == "rooms":
            scale = 1.0  # as many rooms as the configuration says
        if stage.NAME == "evaluate" and guessed and self._config.evaluate.max_items:
            tried = sum(group.total.utterances for group in measured)
            scale = self._config.evaluate.max_items / max(1, tried)
        seconds_in = scale * math.fsum(group.seconds_in for group in measured)
        count = round(scale * sum(group.total.utterances for group in measured))
        work_s = scale * math.fsum(group.seconds * group.factor for group in measured)
        self._set_scale(stage.NAME, trial, measured, scale)
        units = None if guessed else sum(group.units for group in measured)
        workers = self._workers(getattr(self._cluster.stages, stage.NAME), units)
        tried_items = sum(group.tried.utterances for group in measured)
        tried_s = sum(group.seconds for group in measured)
        cost = Cost(
            stage=stage.NAME,
            taken=Tally(count, seconds_in),
            at_most=guessed and stage.NAME != "rooms",
            work_s=work_s,
            workers=workers,
            wall_s=work_s / (workers or 1),
            bytes=scale * math.fsum(group.bytes * group.factor for group in measured),
            source=f"tried on {tried_items} items in {tried_s:.1f} s{self._caveat(stage)}",
            rate=_times(seconds_in / work_s) if work_s and seconds_in else "",
        )
        recorded = recorded_rate(self._workspace, stage.NAME, plan.identity)
        if recorded is None or not seconds_in:
            return cost
        rate, when = recorded
        return dataclasses.replace(
            cost, wall_s=seconds_in / rate, work_s=None, source=when, rate=f"{_times(rate)}, all workers"
        )

    def _set_scale(self, name: str, trial: Trial, measured: Sequence[Measured], scale: float) -> None:
        """Say how much more speech the real output may hold than the miniature: all that goes in may be kept."""
        kept = trial.output.parts(".parquet")
        if name in ("ingest", "filter_language", "transcribe"):
            speech = [row for row in read_rows(kept, Utterance) if row.kind == "speech"]
            tried_s = math.fsum(row.duration_s for row in speech)
            corpora = {row.corpus for row in speech}
            real_s = math.fsum(tried.seconds_in for tried in measured if name != "ingest" or tried.group in corpora)
            if not tried_s:
                raise UserError(f"{name} kept none of the speech that it was tried on")
            trial.scale = scale * real_s / tried_s
        elif name == "simulate":
            tried_s = math.fsum(
                pq.read_table(trial.folder / "index.parquet", columns=["seconds"])["seconds"].to_pylist()
            )
            trial.scale = scale * math.fsum(group.seconds_in for group in measured) / tried_s

    def _caveat(self, stage: Any) -> str:
        import torch

        asked: Resources = getattr(self._cluster.stages, stage.NAME)
        if asked.num_gpus and not torch.cuda.is_available():
            return " on a CPU, but its workers have GPUs: expect less"
        return ""

    def _training(self, plan: StagePlan, trial: Trial) -> Cost:
        """Train a few steps of one worker's share, or take the step of an earlier run; leave weights to evaluate."""
        from flowse.training.mixtures import split_rows

        config, simulated = self._config.train, trial.inputs["simulate"]
        asked = self._cluster.stages.train
        workers = self._workers(dataclasses.replace(asked, workers=asked.workers or 2), None)
        scale = simulated.scale if isinstance(simulated, Miniature) else 1.0
        rows = [row for split in ("train", "dev") for row in split_rows(simulated.folder, split)]
        taken = Tally(round(scale * len(rows)), scale * math.fsum(row.seconds for row in rows))
        tried_s, tried = self._steps(config, simulated.folder, trial, workers or 1)
        recorded = recorded_step_s(self._workspace, plan.identity)
        step_s, source = recorded or (tried_s, tried + self._caveat(train))
        wall_s = config.max_steps * step_s
        return Cost(
            stage="train",
            taken=taken,
            at_most=isinstance(simulated, Miniature),
            work_s=None,
            workers=workers,
            wall_s=wall_s,
            bytes=bytes_needed(self._config, 0.0)["checkpoints"],
            source=source,
            rate=f"{config.max_steps:,} steps of {step_s:.3g} s, at most" if config.patience else
            f"{config.max_steps:,} steps of {step_s:.3g} s",
        )  # fmt: skip

    def _steps(self, config: train.Config, shards: Path, trial: Trial, workers: int) -> tuple[float, str]:
        """Time some optimiser steps of one worker.

        Returns:
            Seconds of a whole step, as it would be with all workers and no time for their talk; what was done.
        """
        from safetensors.torch import save_file

        from flowse.tokenizer import Tokenizer
        from flowse.training.job import Job
        from flowse.training.rank import Rank

        spec = config.spec()
        if config.text:
            spec = dataclasses.replace(spec, vocabulary=Tokenizer.default().vocabulary)
        share = max(config.max_frames, config.frames_per_step // workers)
        frames = min(share, _TRAIN_FRAMES * config.max_frames)
        short = dataclasses.replace(
            config,
            max_steps=_STEPS,
            log_every=1,
            validate_every=0,
            checkpoint_every=0,
            validation_utterances=0,
            examples=0,
            frames_per_step=frames,
            micro_frames=min(config.micro_frames, frames) if config.micro_frames else 0,
            compile=False,
            init_from="",
        )
        job = Job(
            config=short,
            spec=spec,
            start=None,
            seed=self._config.seed,
            shards=shards,
            folder=trial.storage,
            identity={},
            threads=max(1, trial.resources.num_cpus),
        )
        trial.storage.mkdir(exist_ok=True)
        rates: list[float] = []
        rank = Rank(job, device=trial.resources.device)
        rank.train(lambda progress: rates.append(progress.frames_per_s))
        weights = {
            name: tensor.detach().cpu().contiguous() for name, tensor in rank.trainer.system.state_dict().items()
        }
        save_file(weights, trial.folder / "model.safetensors")
        (trial.folder / "spec.json").write_text(json.dumps(spec.to_dict()), encoding="utf-8")
        rate = statistics.median(rates[1:] or rates)
        text = f"tried {len(rates)} steps of {frames:,} frames; without validation and the workers' talk"
        return config.frames_per_step / workers / rate, text


def _times(rate: float) -> str:
    return f"{rate:,.0f}× real time" if rate >= 10 else f"{rate:.1f}× real time"


def busy() -> str:
    """Say that others are at work on this machine, which makes what is tried here slow; empty if it is free."""
    load, cores = os.getloadavg()[0], os.cpu_count() or 1
    return (
        f"this machine is busy (load {load:.1f} on {cores} cores): it will be faster alone"
        if load > _BUSY * cores
        else ""
    )


def table(costs: Sequence[Cost]) -> str:
    """Write the costs for people, with their sum."""
    rows = []
    for cost in costs:
        bound = "≤ " if cost.at_most else ""
        rows.append(
            (
                cost.stage,
                "" if cost.taken is None else f"{bound}{cost.taken.utterances:,}",
                "" if cost.taken is None else f"{bound}{console.audio(cost.taken.seconds)}",
                cost.rate,
                "" if cost.wall_s is None else str(cost.workers or "1 (more?)"),
                "unknown" if cost.wall_s is None else bound + console.duration(cost.wall_s),
                "unknown" if cost.bytes is None else bound + console.size(cost.bytes),
                cost.source,
            )
        )
    known_s = math.fsum(cost.wall_s or 0.0 for cost in costs)
    known_bytes = math.fsum(cost.bytes or 0.0 for cost in costs)
    unknown = [cost.stage for cost in costs if cost.wall_s is None]
    without = f"without {', '.join(unknown)}" if unknown else ""
    rows.append(("together", "", "", "", "", console.duration(known_s), console.size(known_bytes), without))
    heads = ("would run", "items in", "audio in", "rate of a worker", "workers", "expected", "writes", "known from")
    return console.table(heads, rows, right=(1, 2, 4, 5, 6))
