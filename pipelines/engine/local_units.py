"""Run units in this process, one after the other, without Ray."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipelines.engine.follower import Follower
from pipelines.engine.progress import Count
from pipelines.engine.resources import Resources
from pipelines.engine.shipping import bring_named
from pipelines.engine.stage import Unit, Worker
from pipelines.engine.unit_queue import Outcome, UnitHost, UnitQueue


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
) -> Outcome:
    """Run a worker over the units that are not done yet and return what became of all units.

    The files are the same, byte for byte, as those of `ray_units.map_units`. A unit that raises is tried again after
    the others; after `retries` more tries it is quarantined. What only other processes can guard against is not
    guarded against: a unit that hangs hangs the run, and one that kills its process ends it (the finished units stay).

    Args:
        stage: Name, for messages.
        worker: Called with `arguments`, once; see `pipelines.engine.stage.Worker`.
        arguments: For the worker's constructor.
        units: All units of the stage; names must differ.
        folder: Of the stage's units.
        notes: Where it is written why a unit is quarantined.
        resources: `num_cpus` is the number of threads; the rest is not looked at.
        retries: How often a failed unit is tried again.
        follower: Not looked at: there is no other process that could do its units meanwhile.

    Raises:
        UserError: The disk is full, or the worker cannot be built.
    """
    queue = UnitQueue(stage, units, folder, notes, retries)
    host = UnitHost(worker, arguments, resources.num_cpus)
    progress = queue.progress

    def counted(unit: str, count: Count) -> None:
        progress.count({unit: count})
        progress.show()

    with torch_threads_restored():
        while queue.pending:
            attempt = queue.pending.popleft()
            progress.works_on([attempt.unit.name])
            try:
                bring_named((arguments, attempt), folder)
                record = host.run(folder, attempt, counted)
            except Exception as error:  # noqa: BLE001 - whatever a worker raises is the unit's trouble, not the run's
                queue.raised(attempt, error)
            else:
                queue.done(attempt, record)
            progress.works_on(())
            progress.show()
    return queue.outcome()


@contextmanager
def torch_threads_restored() -> Iterator[None]:
    """Give torch its number of threads back at the end, if it was loaded before."""
    torch = sys.modules.get("torch")
    before = torch.get_num_threads() if torch else None
    try:
        yield
    finally:
        if torch:
            torch.set_num_threads(before)
