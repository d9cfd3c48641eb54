"""Run units on Ray actors, with retries, time limits and quarantine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from flowse.console import say
from flowse.errors import UserError
from pipelines.engine.cluster import connected_capacity
from pipelines.engine.count_board import count_board
from pipelines.engine.follower import Follower, FollowerUnits
from pipelines.engine.resources import Resources
from pipelines.engine.stage import Unit, Worker
from pipelines.engine.unit_queue import Outcome, UnitQueue
from pipelines.engine.worker_pool import WorkerPool, run_pools


def _check_fits(stage: str, resources: Resources) -> None:
    """Refuse a worker that no node can hold: Ray would wait for ever."""
    if not connected_capacity().fits(resources):
        keys = f"cluster.stages.{stage}.num_cpus or .num_gpus"
        raise UserError(
            f"{stage}: a worker asks for {resources}, and no node of the cluster has that; lower {keys}, add nodes, or "
            "let the run wait for nodes that an autoscaler brings (cluster.await_nodes_s)"
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
    follower: Follower | None = None,
    await_nodes_s: float = 0.0,
) -> Outcome:
    """Run a worker over the units that are not done yet and return what became of all units.

    Units are handed out one by one, so memory does not grow with their number. A unit whose worker dies, hangs or
    raises is tried again on another worker; after `retries` more tries it is quarantined and `<unit>.quarantine.txt`
    says why. A unit whose worker dies is first searched for the row that kills it. A lost node is no try, and neither
    is a worker that is told to stop (SIGTERM, Ray's drain of its node): the unit goes to another at once.

    Args:
        stage: Name, for messages.
        worker: Called with `arguments` in each actor; see `pipelines.engine.stage.Worker`.
        arguments: Picklable.
        units: All units of the stage; names must differ.
        folder: Of the stage's units.
        notes: Where it is written why a unit is quarantined.
        resources: What one worker takes.
        retries: How often a failed unit is tried again.
        follower: The stage that makes its units of these: workers take them up once none of these is left for them.
        await_nodes_s: How long to wait for nodes that can hold a worker; 0: if there is none, that is an error.

    Raises:
        UserError: The disk is full, a worker cannot be built, or no node can hold one.
    """
    queue = UnitQueue(stage, units, folder, notes, retries)
    if queue.pending:
        if not await_nodes_s:
            _check_fits(stage, resources)
        pool = WorkerPool(
            stage, worker, arguments, folder, resources, queue, retries=retries, await_nodes_s=await_nodes_s
        )
        if follower is None:
            run_pools(pool, show=lambda: _show(queue, pool))
        else:
            _run_with_follower(pool, queue, folder, follower)
    return queue.outcome()


def _show(queue: UnitQueue, pool: WorkerPool) -> None:
    """Show the progress, with what is done inside of the units at work."""
    progress = queue.progress
    progress.count(count_board().latest())
    progress.works_on(pool.units_at_work)
    progress.show()


def _run_with_follower(pool: WorkerPool, queue: UnitQueue, folder: Path, follower: Follower) -> None:
    """Run a pool, and a second one with the units of the stage that follows, on what the first one leaves free."""
    units = FollowerUnits(follower)
    how = follower.following
    second = WorkerPool(
        follower.stage, how.worker, how.arguments, follower.folder, follower.resources, units, yields_to=pool
    )
    queue.on_done = lambda record: units.add([record], folder)
    try:
        units.add(queue.records(), folder)
        run_pools(pool, second, show=lambda: _show(queue, pool), end=units.end)
    finally:
        units.end()
    if units.count:
        say(f"{follower.stage:<16} {units.count:,} units were done meanwhile")
