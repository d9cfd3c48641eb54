"""What runs a stage's units: Ray, or this process alone."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from flowse import console
from pipelines.engine import local_units
from pipelines.engine.cluster import ClusterSettings, connected_capacity, ray_cluster, this_machine
from pipelines.engine.follower import Follower
from pipelines.engine.resources import Capacity, Resources
from pipelines.engine.stage import Unit, Worker
from pipelines.engine.unit_queue import Outcome

if TYPE_CHECKING:
    from flowse.data.audio_ahead import Reader


class UnitRunner(Protocol):
    """Runs a worker over units: `ray_units.map_units` and `local_units.map_units`."""

    def __call__(
        self,
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
        """Run `worker(*arguments)` over the units that are not done in `folder`; return what became of all.

        Workers that are free meanwhile may do units of the follower.
        """


@dataclass(frozen=True)
class Backend:
    """What runs a stage's units: Ray, or this process.

    Attributes:
        capacity: Cores and GPUs, machine by machine, when the run began.
        map_units: Runs a worker over units there.
        local: Whether this process does all the work.
        measure: Returns the capacity of now; None: it does not change.
        await_nodes_s: How long a stage waits for nodes that can hold its workers; 0: not at all.
    """

    capacity: Capacity
    map_units: UnitRunner
    local: bool = False
    measure: Callable[[], Capacity] | None = None
    await_nodes_s: float = 0.0

    def now(self) -> Capacity:
        """Return what there is now: nodes of a cluster come and go."""
        return self.measure() if self.measure else self.capacity

    def reader(self, resources: Resources, roots: Mapping[str, Path], folder: Path) -> Reader | None:
        """Return what reads audio for a worker; None: the worker itself.

        Args:
            resources: What one worker takes.
            roots: Folder of every corpus.
            folder: A folder of the workspace.
        """
        if not resources.decoders or self.local:
            return None
        from pipelines.engine.decoders import Decoders

        return Decoders.of(resources.decoders, roots, folder)

    def granted(self, asked: Resources) -> Resources:
        """Return what one worker of a stage takes here: its number of cores filled in, and one worker if local."""
        if self.local:
            asked = dataclasses.replace(asked, workers=1)
        return self.now().resolve(asked)


@contextmanager
def connect(settings: ClusterSettings) -> Iterator[Backend]:
    """Connect to the configured Ray cluster, or prepare to run units in this process.

    Raises:
        UserError: The cluster cannot be reached.
    """
    if settings.backend == "local":
        console.say("without Ray: one process does all the work, unit after unit")
        yield Backend(this_machine(settings), local_units.map_units, local=True)
        return
    with ray_cluster(settings) as capacity:
        from pipelines.engine import ray_units

        yield Backend(
            capacity,
            functools.partial(ray_units.map_units, await_nodes_s=settings.await_nodes_s),
            measure=connected_capacity,
            await_nodes_s=settings.await_nodes_s,
        )
