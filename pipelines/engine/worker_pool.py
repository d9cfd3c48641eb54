"""The Ray actors that do a stage's units: as many as the nodes hold now, more when some join, fewer when some leave."""

from __future__ import annotations

import signal
import socket
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import ray
from ray.exceptions import OutOfMemoryError, RayActorError, RayError, RayTaskError

from flowse.console import say
from flowse.errors import UserError
from pipelines.engine.cluster import connected_capacity, leaving_nodes
from pipelines.engine.count_board import Writer, count_board
from pipelines.engine.records import UnitRecord
from pipelines.engine.resources import Resources
from pipelines.engine.shipping import Origin, Parcel
from pipelines.engine.stage import Worker
from pipelines.engine.unit_queue import Attempt, UnitHost

_NEWS_S = 2.0
_LOOK_S = 2.0  # how often it is seen which nodes there are
_NO_WORKER_S = 60.0  # after so long without any worker, a line says that the cluster has no room
_NO_NODES_S = 600.0  # a run gives up after so long without a node that could hold a worker: all have left
_ASKED_AT_ONCE = 8  # workers for which an autoscaler is asked beyond those that fit; later as many as are at work
_HANDED_BACK = "handed back"


class Units(Protocol):
    """What a pool takes its units from and reports to: `pipelines.engine.unit_queue.UnitQueue`."""

    pending: deque[Attempt]

    def done(self, attempt: Attempt, record: UnitRecord | None) -> None: ...
    def raised(self, attempt: Attempt, error: BaseException, trace: str = "") -> None: ...
    def failed(self, attempt: Attempt, why: str) -> None: ...
    def died(self, attempt: Attempt, why: str) -> None: ...
    def node_lost(self, attempt: Attempt, why: str) -> None: ...


class _ToldToStop(BaseException):
    """SIGTERM while a unit is being done; no worker catches it as an exception of its own."""


class _Host:
    """The Ray actor around a stage's worker.

    SIGTERM, which a spot node, Slurm or Kubernetes sends before it takes a node away, ends the unit at hand: `run`
    returns at once, so that another worker does the unit, and nobody counts that as a try of it.
    """

    def __init__(self, built_of: Parcel, threads: int, board: Any) -> None:
        """Open what the worker is built of: the files that it names are fetched.

        Args:
            built_of: The worker and its arguments.
            threads: Threads that torch may use.
            board: Handle of the actor of `CountBoard`.
        """
        self._counts = Writer(board)
        worker, arguments = built_of.open()
        self._host = UnitHost(worker, arguments, threads)
        self._is_at_work = False
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._stop)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        if self._is_at_work:
            raise _ToldToStop
        if callable(self._before):
            self._before(number, frame)

    def node(self) -> str:
        """Return the id of the node that it is on: a call that returns shows that the actor's process runs."""
        return str(ray.get_runtime_context().get_node_id())

    def run(self, work: Parcel) -> UnitRecord | str | None:
        """Do one unit, whose files are fetched first; see `UnitHost.run`.

        Returns:
            What `UnitHost.run` does, or `_HANDED_BACK` if the process was told to stop meanwhile.
        """
        try:
            self._is_at_work = True
            with work.opened() as (folder, attempt):
                return self._host.run(folder, attempt, self._counts.write)
        except _ToldToStop:
            return _HANDED_BACK
        finally:
            self._is_at_work = False


@dataclass(frozen=True)
class _Actor:
    """An actor that has answered.

    Attributes:
        handle: Ray's handle.
        node: Id of its node.
    """

    handle: Any
    node: str


@dataclass(frozen=True)
class _Start:
    """An actor that has not answered yet.

    Attributes:
        handle: Ray's handle.
        nodes: Ids of the nodes that lived when it was asked for.
    """

    handle: Any
    nodes: frozenset[str]


class WorkerPool:
    """Actors and the units that they hold.

    Their number follows the nodes: every two seconds it is looked which there are. An actor whose node Ray drains (a
    spot node, a preempted job) gives its unit back at once. Actors that no unit is left for are ended, so that others
    get their CPUs and GPUs, and an autoscaler can take their nodes away.
    """

    def __init__(
        self,
        stage: str,
        worker: Callable[..., Worker[Any]],
        arguments: Sequence[Any],
        folder: Path,
        resources: Resources,
        units: Units,
        *,
        retries: int = 0,
        await_nodes_s: float = 0.0,
        yields_to: WorkerPool | None = None,
    ) -> None:
        """Prepare; no actor is started yet.

        Args:
            stage: Name, for messages.
            worker: Called with `arguments` in each actor.
            arguments: Picklable.
            folder: Of the stage's units.
            resources: What one worker takes.
            units: Gives the units and is told what became of them.
            retries: How many actors in a row may die before they have started.
            await_nodes_s: How long to wait for nodes while none can hold a worker; 0: nobody is asked for more nodes.
            yields_to: A pool that comes first: this one has as many actors as the other leaves room for.
        """
        self._stage, self._folder, self._resources, self._units = stage, folder, resources, units
        self._origin = Origin.of(folder)
        self._built_of = ray.put(Parcel.of((worker, tuple(arguments)), self._origin))
        self._retries, self._await_nodes_s, self._yields_to = retries, await_nodes_s, yields_to
        # An actor gets units once it has answered: where a node is lost, its replacement may wait for ever for room,
        # and no unit may wait with it.
        self._starting: dict[Any, _Start] = {}
        self._idle: list[_Actor] = []
        self._running: dict[Any, tuple[_Actor, Attempt, float]] = {}
        self._failed_starts = 0
        self._nodes: frozenset[str] = frozenset()
        self._fits = 0
        now = time.monotonic()
        self._looked = now - _LOOK_S
        self._at_work = self._held = self._told = now

    @property
    def is_done(self) -> bool:
        """Whether no unit waits and none is being done."""
        return not self._units.pending and not self._running

    @property
    def units_at_work(self) -> list[str]:
        """Names of the units that are being done."""
        return [attempt.unit.name for _, attempt, _ in self._running.values()]

    @property
    def free_share(self) -> float:
        """Share of the actors that fit now which this pool does not have."""
        actors = len(self._idle) + len(self._running) + len(self._starting)
        return max(0.0, 1.0 - actors / self._fits) if self._fits else 0.0

    @property
    def awaited(self) -> list[Any]:
        """What Ray has to be asked about."""
        return [*self._running, *self._starting]

    def tend(self) -> None:
        """Hand out units, and fit the number of actors to nodes and units.

        Raises:
            UserError: No node can hold a worker for too long.
        """
        if time.monotonic() - self._looked >= _LOOK_S:
            self._look()
            self._looked = time.monotonic()
        pending = self._units.pending
        while pending and self._idle:
            actor, attempt = self._idle.pop(), pending.popleft()
            work = Parcel.of((self._folder, attempt), self._origin)
            self._running[actor.handle.run.remote(work)] = (actor, attempt, time.monotonic())
        for reference in self._hung():
            actor, attempt, _ = self._running.pop(reference)
            ray.kill(actor.handle)
            self._units.failed(attempt, f"no result after {self._resources.unit_timeout_s:g} s")
        self._adjust()
        self._say_if_none()

    def _look(self) -> None:
        """See which nodes there are, and take the units back of those that will be taken away."""
        self._nodes = frozenset(node["NodeID"] for node in ray.nodes() if node["Alive"])
        self._fits = connected_capacity().fits(self._resources)
        leaving = leaving_nodes()
        if not leaving:
            return
        for actor in [actor for actor in self._idle if actor.node in leaving]:
            self._idle.remove(actor)
            ray.kill(actor.handle)
        for reference, (actor, attempt, _) in list(self._running.items()):
            if actor.node in leaving:
                del self._running[reference]
                ray.kill(actor.handle)
                self._units.node_lost(attempt, "its node will be taken away")

    def _adjust(self) -> None:
        """Start actors that are lacking, and end those that are not needed any more."""
        at_work = len(self._idle) + len(self._running)
        asked = max(_ASKED_AT_ONCE, at_work) if self._await_nodes_s else 0
        # More workers than fit are started where more are asked for: nodes may join.
        wanted = self._resources.workers or max(self._fits + asked, 1)
        if self._yields_to is not None:
            wanted = min(wanted, int(self._fits * self._yields_to.free_share))
        wanted = min(wanted, len(self._units.pending) + len(self._running))
        for _ in range(wanted - at_work - len(self._starting)):
            self._start()
        surplus = at_work + len(self._starting) - wanted
        for reference in list(self._starting)[::-1][: max(surplus, 0)]:
            ray.kill(self._starting.pop(reference).handle)
        if not self._units.pending:
            while self._idle:
                ray.kill(self._idle.pop().handle)

    def _start(self) -> None:
        """Start an actor; it queues until the cluster has room for it."""
        host = ray.remote(_Host).options(
            num_cpus=self._resources.num_cpus,
            num_gpus=self._resources.num_gpus,
            resources=self._resources.custom,
            max_restarts=0,
        )
        actor = host.remote(self._built_of, self._resources.num_cpus, count_board().actor)
        self._starting[actor.node.remote()] = _Start(actor, self._nodes)

    def _hung(self) -> list[Any]:
        """Return the calls that have taken longer than a unit may."""
        now = time.monotonic()
        return [key for key, (_, _, since) in self._running.items() if now - since > self._resources.unit_timeout_s]

    def _say_if_none(self) -> None:
        """Say that there is no worker if that lasts.

        Raises:
            UserError: For too long no node could have held one.
        """
        now = time.monotonic()
        if self._running or self._idle or not self._units.pending or self._yields_to is not None:
            self._at_work = self._held = self._told = now
            return
        if self._fits:
            self._held = now
        if now - self._held > max(self._await_nodes_s, _NO_NODES_S):
            raise UserError(
                f"{self._stage}: for {now - self._held:.0f} s the cluster had no node for a worker, which asks for "
                f"{self._resources}; see `ray status`, add nodes and run again: finished units are kept"
            )
        if now - self._told > _NO_WORKER_S or (self._await_nodes_s and not self._fits and self._told == self._at_work):
            room = "has no room for one" if self._fits else f"has no node for one ({self._resources})"
            say(f"{self._stage:<16} waits for a worker: the cluster {room}; see `ray status`")
            self._told = now

    def take(self, ready: Iterable[Any]) -> None:
        """Take in what became of calls.

        Raises:
            UserError: The units say that all work must stop, or actors cannot be started.
        """
        for reference in ready:
            if reference in self._starting:
                self._register(reference)
            elif reference in self._running:
                actor, attempt, _ = self._running.pop(reference)
                self._collect(reference, actor, attempt)

    def _register(self, reference: Any) -> None:
        """Make an actor that has started available for units; one that died before is replaced later."""
        start = self._starting.pop(reference)
        try:
            node: str = ray.get(reference)
        except RayError as error:
            ray.kill(start.handle)
            if any(_is_lost(node, wait=False) for node in start.nodes):
                return  # with its node, perhaps
            self._failed_starts += 1
            if self._failed_starts > self._retries:
                why = str(error).strip().splitlines()[-1]
                raise UserError(f"{self._stage}: no worker can be started: {why}") from error
        else:
            self._failed_starts = 0
            self._idle.append(_Actor(start.handle, node))

    def _collect(self, reference: Any, actor: _Actor, attempt: Attempt) -> None:
        """Report a unit's result or error; keep the actor, unless it is lost."""
        try:
            record: UnitRecord | str | None = ray.get(reference)
        except RayTaskError as error:
            self._idle.append(actor)
            self._units.raised(attempt, error.cause, "".join(traceback.format_exception(error)))
        except RayError as error:  # the process died, its node is gone, memory ran out, an object was lost
            ray.kill(actor.handle)
            if _is_lost(actor.node):
                self._units.node_lost(attempt, "its node is lost")
            elif isinstance(error, RayActorError | OutOfMemoryError):
                self._units.died(attempt, f"its worker died: {error}")
            else:
                self._units.failed(attempt, f"{type(error).__name__}: {error}")
        else:
            if isinstance(record, str):
                ray.kill(actor.handle)
                self._units.node_lost(attempt, "its worker was told to stop")
                return
            self._idle.append(actor)
            self._units.done(attempt, record)

    def close(self) -> None:
        """End all actors."""
        at_work = [*self._idle, *(actor for actor, _, _ in self._running.values())]
        for handle in [*(start.handle for start in self._starting.values()), *(actor.handle for actor in at_work)]:
            ray.kill(handle)


def _is_lost(node: str, *, wait: bool = True) -> bool:
    """Whether the cluster has lost a node, or will soon.

    Args:
        node: Its id.
        wait: The news of it may come a moment after that of its workers' deaths.
    """
    end = time.monotonic() + _NEWS_S
    while True:
        known = next((known for known in ray.nodes() if known["NodeID"] == node), None)
        if known is None or not known["Alive"] or node in leaving_nodes() or not _answers(known):
            return True
        if not wait or time.monotonic() > end:
            return False
        time.sleep(0.2)


def _answers(node: Mapping[str, Any]) -> bool:
    """Whether a node's raylet takes connections; Ray itself takes a node for lost that was silent for half a minute."""
    try:
        socket.create_connection((node["NodeManagerAddress"], node["NodeManagerPort"]), timeout=_NEWS_S).close()
    except OSError:
        return False
    return True


def run_pools(
    first: WorkerPool,
    second: WorkerPool | None = None,
    *,
    show: Callable[[], None],
    end: Callable[[], None] = lambda: None,
) -> None:
    """Run the units of a pool, and meanwhile those of a second one; returns when the first is done.

    Args:
        first: The pool whose units are waited for.
        second: What it has begun then is still done, and what it has not begun is left. Its errors stop it alone.
        show: Called now and then, to show the progress.
        end: Called when the first is done: the second shall take nothing up any more.
    """
    pools = [first] if second is None else [first, second]
    try:
        while not first.is_done:
            _step(first, pools)
            show()
        if second is not None and second in pools:
            end()
            while second in pools and not second.is_done:
                _step(first, pools)
    finally:
        for pool in (first, *([second] if second is not None else [])):
            pool.close()


def _step(first: WorkerPool, pools: list[WorkerPool]) -> None:
    """Tend the pools, and wait a second at most for what becomes of their calls."""
    for pool in list(pools):
        try:
            pool.tend()
        except UserError:
            if pool is first:
                raise
            pools.remove(pool)
    awaited = [reference for pool in pools for reference in pool.awaited]
    if not awaited:
        return
    ready, _ = ray.wait(awaited, num_returns=1, timeout=1.0)
    for pool in list(pools):
        try:
            pool.take(ready)
        except UserError:
            if pool is first:
                raise
            pools.remove(pool)
