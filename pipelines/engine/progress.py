"""Progress of long work for people: a bar that moves on a terminal, a line now and then in a log."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from typing import Any

from pipelines.engine import console
from pipelines.engine.accounts import Tally

_FIRST_S = 1.0  # shorter work needs no line in a log
_MOVED_S = 10.0  # between lines of a log if something was done
_STILL_S = 30.0  # and if nothing was
_KEY_SHOWN = 6  # digits of a unit's key
_NAMED = 2  # units that are named as being worked on

Count = tuple[float, float]
"""Utterances of a unit that are done, a part of one included, and their audio in seconds."""


class _Screen:
    """The live area of a terminal: a bar for each stage that runs now; what others print stands above it."""

    def __init__(self) -> None:
        self._bars: Any = None

    def begin(self, stage: str, total: float) -> Any:
        """Add a bar; return its number."""
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        if self._bars is None:
            screen = Console(highlight=False, markup=False)
            self._bars = Progress(
                TextColumn("{task.description:<16}", markup=False),
                TimeElapsedColumn(),
                BarColumn(12),
                TextColumn("{task.fields[state]}", markup=False),
                console=screen,
                transient=True,
                refresh_per_second=4,
            )
            self._bars.start()
        return self._bars.add_task(stage, total=total or None, state="")

    def show(self, number: Any, done: float, state: str) -> None:
        """Bring a bar up to date."""
        if self._bars is not None:
            self._bars.update(number, completed=done, state=console.printable(state))

    def end(self, number: Any) -> None:
        """Take a bar away; with the last of them the live area ends."""
        if self._bars is None:
            return
        self._bars.remove_task(number)
        if not self._bars.tasks:
            self.close()

    def close(self) -> None:
        """End the live area, whatever stands in it."""
        if self._bars is not None:
            self._bars.stop()
            self._bars = None


_screen = _Screen()


def close() -> None:
    """End the live area of the terminal: what comes next, such as an error, stands alone."""
    _screen.close()


class Bar:
    """A bar of its own on a terminal, for work that is not cut into units; elsewhere nothing."""

    def __init__(self, stage: str) -> None:
        """Show the bar, with no progress yet."""
        self.live = console.is_live()
        self._bar = _screen.begin(stage, 1.0) if self.live else None

    def show(self, share: float, state: str) -> None:
        """Say which share, 0 to 1, is done, and what is to be said of it."""
        if self.live:
            _screen.show(self._bar, share, state)

    def end(self) -> None:
        """Take the bar away."""
        if self.live:
            _screen.end(self._bar)


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
            0.0 if moved != self._said or self._next_s == _FIRST_S else _STILL_S - _MOVED_S
        ):
            line = f"{self._stage:<16} {console.duration(elapsed_s)}  {self._state(elapsed_s)}"
            if line != UnitProgress._printed:
                print(console.printable(line), flush=True)
            UnitProgress._printed = line
            self._said, self._next_s = moved, elapsed_s + _MOVED_S

    def end(self) -> None:
        """Take the bar away; the stage's own line says what became of it."""
        if self._bar is not None and not self._ended:
            self._bar.end()
        self._ended = True
