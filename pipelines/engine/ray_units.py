"""Run units on Ray actors, with retries, time limits and quarantine."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import OutOfMemoryError, RayActorError, RayError, RayTaskError

from flowse.errors import UserError
from pipelines.engine.cluster import connected_capacity
from pipelines.engine.console import say
from pipelines.engine.records import UnitRecord
from pipelines.engine.resources import Capacity, Resources
from pipelines.engine.shipping import Origin, Parcel
from pipelines.engine.stage import Unit, Worker
from pipelines.engine.unit_queue import Attempt, Outcome, UnitHost, UnitQueue

_NEWS_S = 2.0
_NO_WORKER_S = 60.0  # after so long without any worker, a line says that the cluster has no room


class _Host:
    """The Ray actor around a stage's worker."""

    def __init__(self, built_of: Parcel, threads: int) -> None:
        """Remember what the worker is built of; it is opened with the first unit."""
        self._built_of, self._threads = built_of, threads
        self._host: UnitHost | None = None

    def run(self, work: Parcel) -> UnitRecord | None:
        """Do one unit, whose files are fetched first; see `UnitHost.run`."""
        if self._host is None:
            worker, arguments = self._built_of.open()
            self._host = UnitHost(worker, arguments, self._threads)
        folder, attempt = work.open()
        return self._host.run(folder, attempt)

    def node(self) -> str:
        """Return the id of the node that it is on: a call that returns shows that the actor's process runs."""
        return str(ray.get_runtime_context().get_node_id())


@dataclass(frozen=True)
class _Actor:
    """An actor that has answered.

    Attributes:
        handle: Ray's handle.
        node: Id of its node.
    """

    handle: Any
    node: str


def _check_fits(stage: str, resources: Resources, capacity: Capacity) -> None:
    """Refuse a worker that no node can hold: Ray would wait for ever."""
    if not capacity.fits(resources):
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
    notes: Path,
    resources: Resources,
    retries: int,
) -> Outcome:
    """Run a worker over the units that are not done yet and return what became of all units.

    Units are handed out one by one, so memory does not grow with their number. A unit whose worker dies, hangs or
    raises is tried again on another worker; after `retries` more tries it is quarantined and `<unit>.quarantine.txt`
    says why. A unit whose worker dies is first searched for the row that kills it. A lost node is no try.

    Args:
        stage: Name, for messages.
        worker: Called with `arguments` in each actor; see `pipelines.engine.stage.Worker`.
        arguments: Picklable.
        units: All units of the stage; names must differ.
        folder: Of the stage's units.
        notes: Where it is written why a unit is quarantined.
        resources: What one worker takes.
        retries: How often a failed unit is tried again.

    Raises:
        UserError: The disk is full, a worker cannot be built, or no node can hold one.
    """
    queue = UnitQueue(stage, units, folder, notes, retries)
    if queue.pending:
        capacity = connected_capacity()
        _check_fits(stage, resources, capacity)
        # More workers than fit are started where more are asked for: nodes may join.
        workers = min(resources.workers or capacity.fits(resources), len(queue.pending))
        _Pool(stage, worker, arguments, folder, resources, retries, queue).run(workers)
    return queue.outcome()


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
        queue: UnitQueue,
    ) -> None:
        self._stage, self._folder, self._resources = stage, folder, resources
        self._retries, self._queue = retries, queue
        self._origin = Origin.of(folder)
        self._built_of = ray.put(Parcel.of((worker, tuple(arguments)), self._origin))
        # An actor gets units once it has answered: where a node is lost, its replacement may wait for ever for room,
        # and no unit may wait with it.
        self._starting: dict[Any, Any] = {}
        self._idle: list[_Actor] = []
        self._failed_starts = 0

    def _start(self) -> None:
        """Start an actor; it queues until the cluster has room for it."""
        options = {"num_cpus": self._resources.num_cpus, "num_gpus": self._resources.num_gpus, "max_restarts": 0}
        host = ray.remote(_Host).options(**options)
        actor = host.remote(self._built_of, self._resources.num_cpus)
        self._starting[actor.node.remote()] = actor

    def run(self, workers: int) -> None:
        """Run all pending units; returns when each is done or quarantined."""
        pending = self._queue.pending
        for _ in range(workers):
            self._start()
        running: dict[Any, tuple[_Actor, Attempt, float]] = {}
        waiting_since = time.monotonic()
        try:
            while pending or running:
                while pending and self._idle:
                    actor, attempt = self._idle.pop(), pending.popleft()
                    work = Parcel.of((self._folder, attempt), self._origin)
                    running[actor.handle.run.remote(work)] = (actor, attempt, time.monotonic())
                ready, _ = ray.wait([*running, *self._starting], num_returns=1, timeout=1.0)
                for reference in ready:
                    if reference in self._starting:
                        self._register(reference)
                        continue
                    actor, attempt, _ = running.pop(reference)
                    self._collect(reference, actor, attempt)
                for reference in self._hung(running):
                    actor, attempt, _ = running.pop(reference)
                    ray.kill(actor.handle)
                    self._queue.failed(attempt, f"no result after {self._resources.unit_timeout_s:g} s")
                    self._start()
                if running or self._idle:
                    waiting_since = time.monotonic()
                elif time.monotonic() - waiting_since > _NO_WORKER_S:
                    say(f"{self._stage:<16} waits for a worker: the cluster has no room for one; see `ray status`")
                    waiting_since = time.monotonic()
                self._queue.progress.show()
        finally:
            at_work = [*self._idle, *(actor for actor, _, _ in running.values())]
            for handle in [*self._starting.values(), *(actor.handle for actor in at_work)]:
                ray.kill(handle)

    def _register(self, reference: Any) -> None:
        """Make an actor that has started available for units, or replace an actor that died before it had started."""
        handle = self._starting.pop(reference)
        try:
            node: str = ray.get(reference)
        except RayError as error:
            ray.kill(handle)
            self._failed_starts += 1
            if self._failed_starts > self._retries:
                why = str(error).strip().splitlines()[-1]
                raise UserError(f"{self._stage}: no worker can be started: {why}") from error
            self._start()
        else:
            self._failed_starts = 0
            self._idle.append(_Actor(handle, node))

    def _hung(self, running: dict[Any, tuple[_Actor, Attempt, float]]) -> list[Any]:
        """Return the calls that have taken longer than a unit may."""
        now = time.monotonic()
        return [key for key, (_, _, since) in running.items() if now - since > self._resources.unit_timeout_s]

    def _collect(self, reference: Any, actor: _Actor, attempt: Attempt) -> None:
        """Report a unit's result or error to the queue; keep the actor, or replace it if it is lost."""
        try:
            record: UnitRecord | None = ray.get(reference)
        except RayTaskError as error:
            self._idle.append(actor)
            self._queue.raised(attempt, error.cause, "".join(traceback.format_exception(error)))
        except RayError as error:  # the process died, its node is gone, memory ran out, an object was lost
            ray.kill(actor.handle)
            self._start()
            if _is_lost(actor.node):
                self._queue.node_lost(attempt, f"its node is lost: {error}")
            elif isinstance(error, RayActorError | OutOfMemoryError):
                self._queue.died(attempt, f"its worker died: {error}")
            else:
                self._queue.failed(attempt, f"{type(error).__name__}: {error}")
        else:
            self._idle.append(actor)
            self._queue.done(attempt, record)


def _is_lost(node: str) -> bool:
    """Whether the cluster has lost a node; the news of it may come a moment after that of its workers' deaths."""
    end = time.monotonic() + _NEWS_S
    while True:
        if not any(known["Alive"] for known in ray.nodes() if known["NodeID"] == node):
            return True
        if time.monotonic() > end:
            return False
        time.sleep(0.2)
