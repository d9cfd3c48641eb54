"""Output for people: lines, tables, and durations and sizes in readable units; `live_area` has what moves."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence

from flowse.names import readable


def make_printable() -> None:
    """Let this process print any text: what a terminal or log cannot show becomes a question mark, never an error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def printable(text: str) -> str:
    """Return a text as the standard output can show it: see `make_printable`, which a library's user need not call."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    return text.encode(encoding, "replace").decode(encoding, "replace")


def is_live(*, stderr: bool = False) -> bool:
    """Whether the standard output, or error, is a terminal in which the cursor can be moved; a log is none."""
    stream = sys.stderr if stderr else sys.stdout
    return stream.isatty() and os.environ.get("TERM", "dumb") not in ("", "dumb", "unknown")


def say(line: str) -> None:
    """Print one line; on a terminal it stands above the progress that may be there."""
    # What comes from files, such as names, must not move the cursor or write over what stands there.
    shown = "\n".join(readable(part) for part in line.split("\n"))
    print(printable(shown), flush=True)


def duration(seconds: float | int) -> str:
    """Write a time span: 0:07, 12:30, 3:05:00."""
    minutes, rest = divmod(round(max(seconds, 0.0)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def audio(seconds: float | int) -> str:
    """Write a length of audio: 41 s, 15.2 min, 1,203.4 h."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:,.1f} h"


def size(count: float | int) -> str:
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
    if is_live():
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
