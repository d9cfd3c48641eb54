"""Progress of a stage's units for people: a bar that moves on a terminal, a line now and then in a log."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping

from flowse import console
from flowse.live_area import LOG_EVERY_S, Bar
from pipelines.engine.accounts import Tally

_FIRST_S = 1.0  # shorter work needs no line in a log
_STILL_S = 30.0  # between lines of a log if nothing was done; else LOG_EVERY_S
_KEY_SHOWN = 6  # digits of a unit's key
_NAMED = 2  # units that are named as being worked on

Count = tuple[float, float]
"""Utterances of a unit that are done, a part of one included, and their audio in seconds."""


def _short(unit: str) -> str:
    """Return a unit's name with the beginning of its key alone, e.g. part-3f9a01."""
    label, dash, key = unit.rpartition("-")
    return f"{label}{dash}{key[:_KEY_SHOWN]}"


class UnitProgress:
    """Progress of a stage's units, counted in utterances: also in those of units that are being worked on.

    Args:
        stage: The stage's name.
        total_units: Number of units.
        total: Utterances and audio of all units; none: unknown.
        done_units: Number of units that an earlier run has finished.
        done: Utterances and audio of these.
    """

    _printed = ""  # the last line of any: units that prepare others may be shown as those that follow

    def __init__(self, stage: str, total_units: int, total: Tally, done_units: int, done: Tally) -> None:
        self._stage, self._total_units, self._total = stage, total_units, total
        self._units, self._done, self._at_start = done_units, done, done
        self._at_work: tuple[str, ...] = ()
        self._counts: dict[str, Count] = {}
        self._started = time.monotonic()
        self._next_s = _FIRST_S
        self._said: tuple[int, float] = (done_units, 0.0)
        self._share_at_start = self._share()
        self._ended = total_units == done_units
        self._bar = None if self._ended else Bar(stage)
        if self._bar is not None:
            self._bar.show(self._share_at_start, self._state(0.0))

    def works_on(self, units: Collection[str]) -> None:
        """Name the units that are being worked on."""
        self._at_work = tuple(units)
        self._counts = {unit: count for unit, count in self._counts.items() if unit in self._at_work}

    def count(self, counts: Mapping[str, Count]) -> None:
        """Take in how much of each unit is done; it is shown if `works_on` names the unit."""
        self._counts |= counts

    def advance(self, unit: str, taken: Tally) -> None:
        """Count one more finished unit."""
        self._counts.pop(unit, None)
        self._at_work = tuple(other for other in self._at_work if other != unit)
        self._units += 1
        self._done = self._done + taken
        self.show()

    def _inside(self) -> Count:
        """Return what is done of units that are being worked on."""
        counts = [self._counts[unit] for unit in self._at_work if unit in self._counts]
        return sum(count[0] for count in counts), sum(count[1] for count in counts)

    def _share(self) -> float:
        if self._total.utterances:
            return min(1.0, (self._done.utterances + self._inside()[0]) / self._total.utterances)
        return self._units / self._total_units if self._total_units else 1.0

    def _state(self, elapsed_s: float) -> str:
        """Write units, utterances, rate, time left, and what is worked on, as far as it is known."""
        live = self._bar is not None and self._bar.live
        inside, inside_s = self._inside()
        state = f"{self._units}/{self._total_units} units"
        if self._total.utterances:
            state += f"  {self._done.utterances + int(inside):,}/{self._total.utterances:,} items"
        items = self._done.utterances - self._at_start.utterances + inside
        seconds = self._done.seconds - self._at_start.seconds + inside_s
        if items and elapsed_s > 0:
            state += f"  {items / elapsed_s:,.1f}/s"
            if seconds and not live:  # 80 columns hold no more
                state += f"  {seconds / elapsed_s:,.0f}× real time"
        gained = self._share() - self._share_at_start
        if gained > 0 and elapsed_s > 0:
            state += f"  {console.duration(elapsed_s * (1 - self._share()) / gained)} left"
        if self._at_work:
            more = len(self._at_work) - _NAMED
            named = ", ".join(map(_short, self._at_work[:_NAMED]))
            state += f"  at {named}{f' and {more} more' if more > 0 else ''}"
        return state

    def show(self) -> None:
        """Show the state; in a log unless it was shown a moment ago."""
        elapsed_s = time.monotonic() - self._started
        if self._ended:
            return
        if self._bar is not None and self._bar.live:
            self._bar.show(self._share(), self._state(elapsed_s))
            return
        # In a log: soon after the beginning, every ten seconds if something was done, every half minute if nothing was.
        moved = (self._units, self._inside()[0])
        if elapsed_s >= self._next_s + (
            0.0 if moved != self._said or self._next_s == _FIRST_S else _STILL_S - LOG_EVERY_S
        ):
            line = f"{self._stage:<16} {console.duration(elapsed_s)}  {self._state(elapsed_s)}"
            if line != UnitProgress._printed:
                print(console.printable(line), flush=True)
            UnitProgress._printed = line
            self._said, self._next_s = moved, elapsed_s + LOG_EVERY_S

    def end(self) -> None:
        """Take the bar away; the stage's own line says what became of it."""
        if self._bar is not None and not self._ended:
            self._bar.end()
        self._ended = True
