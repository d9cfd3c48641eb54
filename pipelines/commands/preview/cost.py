"""What one stage would cost, and the table of all costs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from flowse import console
from pipelines.engine.accounts import Tally


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


def speed(rate: float) -> str:
    """Write how many times faster than the audio plays something is done: 7.3× real time, 210× real time."""
    return f"{rate:,.0f}× real time" if rate >= 10 else f"{rate:.1f}× real time"


def table(costs: Sequence[Cost]) -> str:
    """Write the costs for people, with their sum."""
    known_s = math.fsum(cost.wall_s or 0.0 for cost in costs)
    known_bytes = math.fsum(cost.bytes or 0.0 for cost in costs)
    unknown = [cost.stage for cost in costs if cost.wall_s is None]
    without = f"without {', '.join(unknown)}" if unknown else ""
    rows = [
        *(_row(cost) for cost in costs),
        ("together", "", "", "", "", console.duration(known_s), console.size(known_bytes), without),
    ]
    heads = ("would run", "items in", "audio in", "rate of a worker", "workers", "expected", "writes", "known from")
    return console.table(heads, rows, right=(1, 2, 4, 5, 6))


def _row(cost: Cost) -> tuple[str, ...]:
    """Write one stage's cost; a bound is marked with ≤."""
    bound = "≤ " if cost.at_most else ""
    return (
        cost.stage,
        "" if cost.taken is None else f"{bound}{cost.taken.utterances:,}",
        "" if cost.taken is None else f"{bound}{console.audio(cost.taken.seconds)}",
        cost.rate,
        "" if cost.wall_s is None else str(cost.workers or "1 (more?)"),
        "unknown" if cost.wall_s is None else bound + console.duration(cost.wall_s),
        "unknown" if cost.bytes is None else bound + console.size(cost.bytes),
        cost.source,
    )
