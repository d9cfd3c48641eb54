"""Output for people: lines, progress with rate and time left, tables, and durations and sizes in readable units."""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Sequence

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
    """Print one line; on a terminal it replaces the progress line that may stand there."""
    clear = "\r\x1b[2K" if sys.stdout.isatty() else ""
    # What comes from files, such as names, must not move the cursor or write over what stands there.
    shown = "\n".join(readable(part) for part in line.split("\n"))
    print(f"{clear}{printable(shown)}", flush=True)


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


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> str:
    """Write a table with columns as wide as their widest cell; control characters become escapes.

    Args:
        heads: Names of the columns.
        rows: Their cells.
        right: Columns that are set flush right: numbers.
    """
    lines = [tuple(heads), *(tuple(map(readable, row)) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(heads))]
    cells = (
        [cell.rjust(width) if column in right else cell.ljust(width)
         for column, (cell, width) in enumerate(zip(line, widths, strict=True))]
        for line in lines
    )  # fmt: skip
    return "\n".join("  ".join(line).rstrip() for line in cells)


class Progress:
    """A stage's progress: a live line on a terminal, a line now and then in a log.

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
        self._shown_units = done_units

    def advance(self, taken: Tally) -> None:
        """Count one more finished unit."""
        self._units += 1
        self._done = self._done + taken
        self.show()

    def show(self) -> None:
        """Print the state, unless it was printed a moment ago."""
        now = time.monotonic()
        live = sys.stdout.isatty()
        # In a log: every ten seconds if a unit was finished, every minute if none was.
        pause_s = 0.2 if live else 10.0 if self._units > self._shown_units else 60.0
        if now - self._shown < pause_s:
            return
        self._shown, self._shown_units = now, self._units
        elapsed = now - self._started
        here = Tally(self._done.utterances - self._at_start.utterances, self._done.seconds - self._at_start.seconds)
        line = f"{self._stage:<16} {self._units}/{self._total_units} units"
        if here.utterances and elapsed > 0:
            left = max(self._total.utterances - self._done.utterances, 0) * elapsed / here.utterances
            line += f"  {here.utterances / elapsed:,.1f} items/s"
            if here.seconds:
                line += f"  {here.seconds / elapsed:,.0f}× real time"
            line += f"  {duration(left)} left"
        if live:
            print(f"\r\x1b[2K{printable(line)}", end="", flush=True)
        else:
            print(printable(line), flush=True)
