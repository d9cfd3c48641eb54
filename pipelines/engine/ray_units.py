"""Run units on the cluster: the one place that hands data stages to Ray, with retries, time limits and quarantine."""

from __future__ import annotations

import errno
import functools
import sys
import time
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError

from flowse.errors import UserError
from flowse.files import remove_temporaries
from pipelines.engine.accounts import StageReport, Tally, merge
from pipelines.engine.console import Progress, say
from pipelines.engine.ledger import QUARANTINE_SUFFIX, UnitFolder, done_unit, from_json
from pipelines.engine.stage import Resources, Unit, Worker

_LONELY_S = 60.0


class WorkerSetupError(Exception):
    """A worker could not be built; trying the next unit would not help."""


class _Host:
    """The Ray actor around a stage's worker: builds it once, commits what it writes."""

    def __init__(self, worker: Callable[..., Worker[Any]], arguments: Sequence[Any], threads: int) -> None:
        self._build = functools.partial(worker, *arguments)
        self._worker: Worker[Any] | None = None
        # Ray sets OMP_NUM_THREADS, but torch counts cores by itself where it was told otherwise. Stages without torch
        # must not pay seconds for its import.
        if "torch" in sys.modules:
            sys.modules["torch"].set_num_threads(threads)

    def ready(self) -> None:
        """Answer: this process lives."""

    def run(self, folder: Path, unit: Unit[Any]) -> StageReport:
        """Do one unit and commit it."""
        if self._worker is None:
            try:
                self._worker = self._build()
            except UserError:
                raise
            except Exception as error:
                raise WorkerSetupError(f"{type(error).__name__}: {error}") from error
        output = UnitFolder(folder, unit.name)
        try:
            return output.commit(unit.taken, self._worker(unit.payload, output))
        finally:
            output.discard()


def _is_disk_full(error: BaseException) -> bool:
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def _workers(resources: Resources, pending: int) -> int:
    """How many workers to start: as configured, or as many as the cluster holds; never more than there are units."""
    if resources.workers is not None:
        return min(resources.workers, pending)
    cluster = ray.cluster_resources()
    fits = int(cluster.get("CPU", 1) // resources.num_cpus)
    if resources.num_gpus:
        fits = min(fits, int(cluster.get("GPU", 0) / resources.num_gpus))
    return max(1, min(fits, pending))


def _check_fits(stage: str, resources: Resources) -> None:
    """Refuse a worker that no node can hold: Ray would wait for ever."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if not any(node.get("CPU", 0) >= resources.num_cpus and node.get("GPU", 0) >= resources.num_gpus for node in nodes):
        raise UserError(
            f"{stage}: a worker asks for {resources.num_cpus} CPUs and {resources.num_gpus:g} GPUs, and no node of the "
            f"cluster has that many; lower cluster.stages.{stage}.num_cpus or .num_gpus, or add nodes"
        )


def map_units(
    stage: str,
    worker: Callable[..., Worker[Any]],
    arguments: Sequence[Any],
    units: Sequence[Unit[Any]],
    *,
    folder: Path,
    resources: Resources,
    retries: int,
) -> StageReport:
    """Run a worker over the units that are not done yet and return the books of all units.

    Units are handed out one by one, so memory does not grow with their number. A unit whose worker dies, hangs or
    raises is tried again on another worker; after `retries` more tries it is quarantined and `<unit>.quarantine.txt`
    says why.

    Args:
        stage: Name, for messages.
        worker: Called with `arguments` in each actor; see `pipelines.engine.stage.Worker`.
        arguments: Picklable.
        units: All units of the stage; names must differ.
        folder: The stage's folder.
        resources: What one worker takes.
        retries: How often a failed unit is tried again.

    Raises:
        UserError: The disk is full, a worker cannot be built, or no node can hold one.
    """
    names = [unit.name for unit in units]
    if len(set(names)) != len(names):
        raise ValueError(f"{stage}: unit names repeat")
    remove_temporaries(folder)
    reports: dict[str, StageReport] = {}
    for unit in units:
        record = done_unit(folder, unit.name)
        if record is not None:
            reports[unit.name] = from_json(record["books"])
    pending = deque(unit for unit in units if unit.name not in reports)
    if pending:
        done = merge(reports.values()).taken
        total = sum((unit.taken for unit in pending), done)
        progress = Progress(stage, len(units), total, len(reports), done)
        if reports:
            say(f"{stage:<16} resumes: {len(reports)} of {len(units)} units are done already")
        _check_fits(stage, resources)
        pool = _Pool(stage, worker, arguments, folder, resources, retries, progress)
        reports |= pool.run(pending, _workers(resources, len(pending)))
    return merge(reports[name] for name in names)


class _Pool:
    """Actors and the units that they hold."""

    def __init__(
        self,
        stage: str,
        worker: Callable[..., Worker[Any]],
        arguments: Sequence[Any],
        folder: Path,
        resources: Resources,
        retries: int,
        progress: Progress,
    ) -> None:
        self._stage, self._folder, self._resources = stage, folder, resources
        self._retries, self._progress = retries, progress
        self._tries: dict[str, int] = {}
        self._worker, self._arguments = worker, arguments
        # An actor gets units once it has answered: where a node is lost, its replacement may wait for ever for room,
        # and no unit may wait with it.
        self._starting: dict[Any, Any] = {}
        self._idle: list[Any] = []
        self._failed_starts = 0

    def _start(self) -> None:
        """Start an actor; it queues until the cluster has room for it."""
        options = {"num_cpus": self._resources.num_cpus, "num_gpus": self._resources.num_gpus, "max_restarts": 0}
        host = ray.remote(_Host).options(**options)
        actor = host.remote(self._worker, self._arguments, self._resources.num_cpus)
        self._starting[actor.ready.remote()] = actor

    def run(self, pending: deque[Unit[Any]], workers: int) -> dict[str, StageReport]:
        """Run all units; returns when each is done or quarantined."""
        reports: dict[str, StageReport] = {}
        for _ in range(workers):
            self._start()
        running: dict[Any, tuple[Any, Unit[Any], float]] = {}
        lonely_since = time.monotonic()
        try:
            while pending or running:
                while pending and self._idle:
                    actor, unit = self._idle.pop(), pending.popleft()
                    running[actor.run.remote(self._folder, unit)] = (actor, unit, time.monotonic())
                ready, _ = ray.wait([*running, *self._starting], num_returns=1, timeout=1.0)
                for reference in ready:
                    if reference in self._starting:
                        self._welcome(reference)
                        continue
                    actor, unit, _ = running.pop(reference)
                    report = self._collect(reference, actor, unit, pending)
                    if report is not None:
                        reports[unit.name] = report
                        if not report.quarantined:
                            self._progress.advance(report.taken)
                for reference in self._hung(running):
                    actor, unit, _ = running.pop(reference)
                    ray.kill(actor)
                    report = self._failed(unit, f"no result after {self._resources.unit_timeout_s:g} s", pending)
                    if report is not None:
                        reports[unit.name] = report
                    self._start()
                if running or self._idle:
                    lonely_since = time.monotonic()
                elif time.monotonic() - lonely_since > _LONELY_S:
                    say(f"{self._stage:<16} waits for a worker: the cluster has no room for one; see `ray status`")
                    lonely_since = time.monotonic()
                self._progress.show()
        finally:
            for actor in [*self._idle, *self._starting.values(), *(actor for actor, _, _ in running.values())]:
                ray.kill(actor)
        return reports

    def _welcome(self, reference: Any) -> None:
        """Let an actor that answered work; start another for one that died before it could."""
        actor = self._starting.pop(reference)
        try:
            ray.get(reference)
        except RayError as error:
            ray.kill(actor)
            self._failed_starts += 1
            if self._failed_starts > self._retries:
                why = str(error).strip().splitlines()[-1]
                raise UserError(f"{self._stage}: no worker can be started: {why}") from error
            self._start()
        else:
            self._failed_starts = 0
            self._idle.append(actor)

    def _hung(self, running: dict[Any, tuple[Any, Unit[Any], float]]) -> list[Any]:
        now = time.monotonic()
        return [key for key, (_, _, since) in running.items() if now - since > self._resources.unit_timeout_s]

    def _collect(self, reference: Any, actor: Any, unit: Unit[Any], pending: deque[Unit[Any]]) -> StageReport | None:
        """Take a result and make sure of an actor; on failure decide between another try, quarantine and giving up."""
        try:
            report: StageReport = ray.get(reference)
            self._idle.append(actor)
            return report
        except RayTaskError as error:
            cause = error.cause
            if isinstance(cause, UserError):
                raise cause from None
            if isinstance(cause, WorkerSetupError):
                raise UserError(f"{self._stage}: a worker could not be set up: {cause}") from error
            if _is_disk_full(cause):
                raise UserError(
                    f"{self._stage}: the disk is full (unit {unit.name} in {self._folder}); free some space and run "
                    "again: finished units are kept"
                ) from None
            self._idle.append(actor)
            return self._failed(unit, "".join(traceback.format_exception(error)), pending)
        except RayActorError as error:
            self._start()
            return self._failed(unit, f"its worker died: {error}", pending)
        except RayError as error:  # object lost with a node, out of memory, cancelled
            ray.kill(actor)
            self._start()
            return self._failed(unit, f"{type(error).__name__}: {error}", pending)

    def _failed(self, unit: Unit[Any], why: str, pending: deque[Unit[Any]]) -> StageReport | None:
        """Put a failed unit back into the queue, or into quarantine when its tries are used up."""
        tries = self._tries[unit.name] = self._tries.get(unit.name, 0) + 1
        first = why.strip().splitlines()[-1] if why.strip() else "no reason given"
        if tries <= self._retries:
            say(f"{self._stage:<16} unit {unit.name} failed (try {tries} of {self._retries + 1}), again: {first}")
            pending.append(unit)
            return None
        note = self._folder / f"{unit.name}{QUARANTINE_SUFFIX}"
        note.write_text(why + "\n", encoding="utf-8")
        say(f"{self._stage:<16} unit {unit.name} quarantined after {tries} tries: {first} (see {note})")
        return StageReport(taken=Tally(), kept=Tally(), quarantined=(unit.name,))
