"""What a run would cost: hours in, rates, expected time and bytes, stage by stage, before it starts.

Every stage that would run is tried on what the stage before it left when that was tried (`trial`, and `steps` for the
training). Where the workspace holds the record of a whole run with the same configuration, its rate is taken instead
(`recorded`). Nothing is written into the workspace.
"""

from __future__ import annotations

import dataclasses
import math
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch

from flowse import console
from flowse.data.manifest import Utterance
from flowse.data.parquet import read_columns, read_rows
from flowse.errors import UserError
from flowse.refusal import Refusal
from flowse.training.mixtures import split_rows
from pipelines.commands.doctor import bytes_needed
from pipelines.commands.preview.cost import Cost, speed
from pipelines.commands.preview.recorded import recorded_rate, recorded_step_s
from pipelines.commands.preview.steps import time_steps
from pipelines.commands.preview.trial import Measured, Miniature, Trial, results, share_splits
from pipelines.engine.accounts import Tally
from pipelines.engine.cluster import address_of, ray_cluster, this_machine
from pipelines.engine.local_units import torch_threads_restored
from pipelines.engine.plan import StagePlan
from pipelines.engine.resources import Capacity, Resources
from pipelines.engine.stage import Stage, reads_of
from pipelines.engine.unit_queue import WorkerSetupError
from pipelines.engine.workspace import StageFolder
from pipelines.experiment import ClusterConfig, ExperimentConfig
from pipelines.stages import train
from pipelines.stages.ingest import corpus_roots

_BUSY = 1.25  # load by core from which on rates are worth little
_TRIED = (UserError, WorkerSetupError, Refusal, OSError, RuntimeError, ValueError, KeyError, ImportError)


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
    """Estimates the cost of every stage by a trial; the input of a trial is the output of the trials before it."""

    def __init__(
        self, config: ExperimentConfig, cluster: ClusterConfig, workspace: Path, found: Capacity | None
    ) -> None:
        self._config, self._cluster, self._workspace, self._capacity = config, cluster, workspace, found

    def costs(self, stages: Sequence[Stage], plans: Mapping[str, StagePlan], running: Sequence[str]) -> Iterator[Cost]:
        """Yield the cost of every stage that would run.

        Args:
            stages: All stages in their order.
            plans: State of each stage.
            running: Names of the stages that would run.
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
        asked: Resources = getattr(self._cluster.stages, stage)
        gpus = asked.num_gpus if torch.cuda.is_available() else 0.0
        return dataclasses.replace((self._capacity or this_machine(self._cluster)).resolve(asked), num_gpus=gpus)

    def _workers(self, asked: Resources, units: int | None) -> int | None:
        """Return how many workers of a stage would work at once; None: unknown."""
        if self._cluster.backend == "local":
            return 1
        if self._capacity is not None:
            return self._capacity.at_work(asked, units)
        return asked.workers if asked.workers is None or units is None else max(1, min(asked.workers, units))

    def _cost(self, stage: Stage, plan: StagePlan, trial: Trial) -> Cost:
        """Try one stage and say what all of it would cost.

        Raises:
            UserError, WorkerSetupError, …: The stage cannot be tried (see `_TRIED`).
        """
        if stage.NAME == "train":
            return self._training(plan, trial)
        if stage.NAME == "export":
            return Cost(stage="export", source="unknown; writes the model once and reloads it, minutes at most")
        stage.run(getattr(self._config, stage.NAME), trial)
        seen = results(trial.measured)
        measured = [*seen, *(group for group in trial.measured if group.hidden)]
        miniatures = [read for read in trial.inputs.values() if isinstance(read, Miniature)]
        scale = max((read.scale for read in miniatures), default=1.0)
        guessed = bool(miniatures)
        if stage.NAME == "ingest":
            share_splits(trial.output.parts(".parquet"))
        if stage.NAME == "rooms":
            scale = 1.0  # as many rooms as the configuration says
        if stage.NAME == "evaluate" and guessed and self._config.evaluate.max_items:
            tried = sum(group.total.utterances for group in seen)
            scale = self._config.evaluate.max_items / max(1, tried)
        seconds_in = scale * math.fsum(group.seconds_in for group in seen)
        count = round(scale * sum(group.total.utterances for group in seen))
        work_s = scale * math.fsum(group.seconds * group.factor for group in measured)
        self._set_scale(stage.NAME, trial, seen, scale)
        units = None if guessed else sum(group.units for group in seen)
        workers = self._workers(getattr(self._cluster.stages, stage.NAME), units)
        tried_s = sum(group.seconds for group in measured)
        tried_items = sum(group.tried.utterances for group in seen)
        cost = Cost(
            stage=stage.NAME,
            taken=Tally(count, seconds_in),
            at_most=guessed and stage.NAME != "rooms",
            work_s=work_s,
            workers=workers,
            wall_s=work_s / (workers or 1),
            bytes=scale * math.fsum(group.bytes * group.factor for group in measured),
            source=f"tried on {tried_items} items in {tried_s:.1f} s{self._caveat(stage)}",
            rate=speed(seconds_in / work_s) if work_s and seconds_in else "",
        )
        recorded = recorded_rate(self._workspace, stage.NAME, plan.identity)
        if recorded is None or not seconds_in:
            return cost
        rate, when = recorded
        return dataclasses.replace(
            cost, wall_s=seconds_in / rate, work_s=None, source=when, rate=f"{speed(rate)}, all workers"
        )

    def _set_scale(self, name: str, trial: Trial, measured: Sequence[Measured], scale: float) -> None:
        """Say how much more speech the real output may hold than the miniature: all that goes in may be kept."""
        kept = trial.output.parts(".parquet")
        if name in ("ingest", "quality", "filter_language", "transcribe"):
            speech = [row for row in read_rows(kept, Utterance) if row.kind == "speech"]
            tried_s = math.fsum(row.duration_s for row in speech)
            corpora = {row.corpus for row in speech}
            real_s = math.fsum(group.seconds_in for group in measured if name != "ingest" or group.name in corpora)
            if not tried_s:
                raise UserError(f"{name} kept none of the speech that it was tried on")
            trial.scale = scale * real_s / tried_s
        elif name == "simulate":
            tried_s = math.fsum(read_columns(trial.folder / "index.parquet", None, ["seconds"])["seconds"].to_pylist())
            trial.scale = scale * math.fsum(group.seconds_in for group in measured) / tried_s

    def _caveat(self, stage: Stage) -> str:
        """Say that this machine lacks the GPUs of the stage's workers; empty if it does not."""

        asked: Resources = getattr(self._cluster.stages, stage.NAME)
        if asked.num_gpus and not torch.cuda.is_available():
            return " on a CPU, but its workers have GPUs: expect less"
        return ""

    def _training(self, plan: StagePlan, trial: Trial) -> Cost:
        """Train a few steps of one worker's share, or take the step of an earlier run; leave weights to evaluate."""
        config, simulated = self._config.train, trial.inputs["simulate"]
        asked = self._cluster.stages.train
        workers = self._workers(dataclasses.replace(asked, workers=asked.workers or 2), None)
        scale = simulated.scale if isinstance(simulated, Miniature) else 1.0
        rows = [row for split in ("train", "dev") for row in split_rows(simulated.folder, split)]
        taken = Tally(round(scale * len(rows)), scale * math.fsum(row.seconds for row in rows))
        tried_s, tried = time_steps(config, simulated.folder, trial, workers or 1)
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


def busy() -> str:
    """Say that others are at work on this machine, which makes what is tried here slow; empty if it is free."""
    load, cores = os.getloadavg()[0], os.cpu_count() or 1
    return (
        f"this machine is busy (load {load:.1f} on {cores} cores): it will be faster alone"
        if load > _BUSY * cores
        else ""
    )
