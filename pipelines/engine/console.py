"""Output for people: lines, progress with rate and time left, tables, and durations and sizes in readable units."""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Sequence
from typing import Any

from flowse.names import readable
from pipelines.engine.accounts import Tally


def make_printable() -> None:
    """Let this process print any text: what a terminal or log cannot show becomes a question mark, never an error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def printable(text: str) -> str:
    """Return a text as the standard output can show it: see `make_printable`, which a library's user need not call."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    return text.encode(encoding, "replace").decode(encoding, "replace")


def say(line: str) -> None:
    """Print one line; on a terminal it stands above the progress that may be there."""
    # What comes from files, such as names, must not move the cursor or write over what stands there.
    shown = "\n".join(readable(part) for part in line.split("\n"))
    print(printable(shown), flush=True)


def duration(seconds: float) -> str:
    """Write a time span: 0:07, 12:30, 3:05:00."""
    minutes, rest = divmod(round(max(seconds, 0.0)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def audio(seconds: float) -> str:
    """Write a length of audio: 41 s, 15.2 min, 1,203.4 h."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:,.1f} h"


def size(count: float) -> str:
    """Write a number of bytes: 712 B, 41.3 MiB, 1,203.4 GiB."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:,.1f} GiB"


def table(
    heads: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = (), spare: Sequence[int] = ()
) -> str:
    """Write a table with columns as wide as their widest cell; control characters become escapes.

    In a pipe or a log it is plain text. On a terminal heads are bold, states are coloured, and what does not fit is
    folded.

    Args:
        heads: Names of the columns.
        rows: Their cells.
        right: Columns that are set flush right: numbers.
        spare: Columns that a terminal which is too narrow does without, the first of them first.
    """
    cells = [tuple(map(readable, row)) for row in rows]
    widths = [max(len(line[column]) for line in (tuple(heads), *cells)) for column in range(len(heads))]
    if sys.stdout.isatty():
        return _terminal_table(heads, cells, widths, right, spare)
    lines = (
        [cell.rjust(width) if column in right else cell.ljust(width)
         for column, (cell, width) in enumerate(zip(line, widths, strict=True))]
        for line in (tuple(heads), *cells)
    )  # fmt: skip
    return "\n".join("  ".join(line).rstrip() for line in lines)


_COLOURS = {
    "fresh": "green",
    "stale": "yellow",
    "would run": "yellow",
    "incomplete": "red",
    "missing": "dim",
    "ok": "green",
    "warning": "yellow",
    "error": "red",
}


def _terminal_table(
    heads: Sequence[str],
    rows: Sequence[Sequence[str]],
    widths: Sequence[int],
    right: Sequence[int],
    spare: Sequence[int],
) -> str:
    """Write a table as this terminal can show it; see `table`."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    screen = Console()
    columns, left_out = list(range(len(heads))), list(spare)
    while left_out and sum(widths[column] + 2 for column in columns) - 2 > screen.width:
        columns.remove(left_out.pop(0))
    shown = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in columns:
        shown.add_column(Text(heads[column]), justify="right" if column in right else "left", overflow="fold")
    for row in rows:
        shown.add_row(*(Text(printable(row[column]), style=_COLOURS.get(row[column], "")) for column in columns))
    with screen.capture() as captured:
        screen.print(shown)
    return captured.get().rstrip("\n")


class _Screen:
    """The live area of a terminal: a bar for each stage that runs now; what others print stands above it."""

    def __init__(self) -> None:
        self._bars: Any = None

    def begin(self, stage: str, total: float) -> Any:
        """Add a bar; return its number."""
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        if self._bars is None:
            self._bars = Progress(
                TextColumn("{task.description:<16}", markup=False),
                TimeElapsedColumn(),
                BarColumn(12),
                TextColumn("{task.fields[state]}", markup=False),
                console=Console(),
                transient=True,
                refresh_per_second=4,
            )
            self._bars.start()
        return self._bars.add_task(stage, total=total or None, state="")

    def show(self, number: Any, done: float, state: str) -> None:
        """Bring a bar up to date."""
        if self._bars is not None:
            self._bars.update(number, completed=done, state=printable(state))

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
        self.live = sys.stdout.isatty()
        self._bar = _screen.begin(stage, 1.0) if self.live else None

    def show(self, share: float, state: str) -> None:
        """Say which share, 0 to 1, is done, and what is to be said of it."""
        if self.live:
            _screen.show(self._bar, share, state)

    def end(self) -> None:
        """Take the bar away."""
        if self.live:
            _screen.end(self._bar)


class Progress:
    """A stage's progress: a bar on a terminal, from the first moment on; a line now and then in a log.

    Args:
        stage: The stage's name.
        total_units: Number of units.
        total: Utterances and audio of all units.
        done_units: Number of units that an earlier run has finished.
        done: Utterances and audio of these.
    """

    def __init__(self, stage: str, total_units: int, total: Tally, done_units: int, done: Tally) -> None:
        self._stage, self._total_units, self._total = stage, total_units, total
        self._units, self._done, self._at_start = done_units, done, done
        self._started = self._shown = time.monotonic()
        self._shown_units, self._said = done_units, ""
        self._ended = total_units == done_units
        self._bar: Any = None
        if not self._ended and sys.stdout.isatty():
            self._bar = _screen.begin(stage, total.utterances)
            _screen.show(self._bar, done.utterances, self._state(0.0))

    def advance(self, taken: Tally) -> None:
        """Count one more finished unit."""
        self._units += 1
        self._done = self._done + taken
        self.show()

    def show(self) -> None:
        """Show the state, unless it was shown a moment ago."""
        now = time.monotonic()
        elapsed_s = now - self._started
        if self._ended:
            return
        if self._bar is not None:
            _screen.show(self._bar, self._done.utterances, self._state(elapsed_s))
            return
        # In a log: soon after the beginning, every ten seconds if a unit was finished, every half minute if none was.
        waiting_s = 1.0 if not self._said and self._units == self._shown_units else 30.0
        pause_s = 10.0 if self._units > self._shown_units else waiting_s
        if now - self._shown < pause_s:
            return
        line = f"{self._stage:<16} {self._state(elapsed_s)}  {duration(elapsed_s)} elapsed"
        if line != self._said:
            print(printable(line), flush=True)
        self._shown, self._shown_units, self._said = now, self._units, line

    def end(self) -> None:
        """Take the bar away; the stage's own line says what became of it."""
        if self._bar is not None and not self._ended:
            _screen.end(self._bar)
        self._ended = True

    def _state(self, elapsed_s: float) -> str:
        state = f"{self._units}/{self._total_units} units"
        here = Tally(self._done.utterances - self._at_start.utterances, self._done.seconds - self._at_start.seconds)
        if here.utterances and elapsed_s > 0:
            left = max(self._total.utterances - self._done.utterances, 0) * elapsed_s / here.utterances
            state += f"  {here.utterances / elapsed_s:,.1f} items/s"
            if here.seconds and self._bar is None:  # 80 columns hold no more
                state += f"  {here.seconds / elapsed_s:,.0f}× real time"
            state += f"  {duration(left)} left"
        return state
