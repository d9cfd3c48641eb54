"""How far the workers of a cluster are inside their units: they write it on a board that the driver reads."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipelines.engine.progress import Count

_PAUSE_S = 1.0  # between two calls of a worker, and of the driver


class _Counts:
    """The actor: the latest count of every unit."""

    def __init__(self) -> None:
        self._counts: dict[str, Count] = {}

    def write(self, unit: str, count: Count) -> None:
        """Replace the count of a unit."""
        self._counts[unit] = count

    def read(self) -> dict[str, Count]:
        """Return what was written since the last call."""
        counts, self._counts = self._counts, {}
        return counts


class Writer:
    """The board as a worker sees it: calls are not waited for, and no count is worth an error."""

    def __init__(self, board: Any) -> None:
        """Take the actor's handle."""
        self._board = board
        self._written = time.monotonic()

    def write(self, unit: str, count: Count) -> None:
        """Send how much of a unit is done, unless that was sent a moment ago."""
        now = time.monotonic()
        if now - self._written >= _PAUSE_S:
            self._written = now
            with contextlib.suppress(RayError):
                self._board.write.remote(unit, count)


class CountBoard:
    """The board as the driver sees it; the actor lives as long as the connection to the cluster.

    Attributes:
        actor: Its handle.
    """

    def __init__(self, actor: Any) -> None:
        """Take the actor's handle."""
        self.actor = actor
        self._asked = time.monotonic()
        self._answer: Any = None

    def latest(self) -> Mapping[str, Count]:
        """Return the counts that have come in; nothing is waited for."""
        if self._answer is None:
            if time.monotonic() - self._asked >= _PAUSE_S:
                self._answer, self._asked = self.actor.read.remote(), time.monotonic()
            return {}
        ready, _ = ray.wait([self._answer], timeout=0)
        if not ready:
            return {}
        answer, self._answer = self._answer, None
        try:
            counts: dict[str, Count] = ray.get(answer)
        except RayError:  # the actor is lost: units are counted, and nothing in them
            return {}
        return counts


_boards: dict[str, CountBoard] = {}


def count_board() -> CountBoard:
    """Return the board of this connection, beside the driver; it is made at the first call."""
    context = ray.get_runtime_context()
    job = f"{context.gcs_address} {context.get_job_id()}"
    if job not in _boards:
        _boards.clear()
        beside = NodeAffinitySchedulingStrategy(context.get_node_id(), soft=True)
        actor = ray.remote(_Counts).options(num_cpus=0, scheduling_strategy=beside).remote()
        _boards[job] = CountBoard(actor)
    return _boards[job]
