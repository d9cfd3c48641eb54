"""The live area of a terminal: a bar for each work that goes on; what others print stands above it."""

from __future__ import annotations

from typing import Any

from flowse import console
from flowse.names import readable

LOG_EVERY_S = 10.0
"""Seconds between two lines of progress where there is no terminal, but a log."""


class _Screen:
    """The bars that are shown now."""

    def __init__(self) -> None:
        self._bars: Any = None

    def begin(self, work: str, total: float, *, stderr: bool) -> Any:
        """Add a bar; return its number."""
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        if self._bars is None:
            screen = Console(highlight=False, markup=False, stderr=stderr)
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
        return self._bars.add_task(work, total=total or None, state="")

    def show(self, number: Any, done: float, state: str) -> None:
        """Bring a bar up to date; names in `state` do not move the cursor."""
        if self._bars is not None:
            self._bars.update(number, completed=done, state=console.printable(readable(state)))

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
    """A bar on a terminal; elsewhere nothing.

    Args:
        work: Its name, e.g. that of a stage; 16 characters are set aside for it.
        stderr: Whether it goes to the standard error, because the standard output is for results.
    """

    def __init__(self, work: str, *, stderr: bool = False) -> None:
        """Show the bar, with no progress yet."""
        self.live = console.is_live(stderr=stderr)
        self._bar = _screen.begin(work, 1.0, stderr=stderr) if self.live else None

    def show(self, share: float, state: str) -> None:
        """Say which share, 0 to 1, is done, and what is to be said of it."""
        if self.live:
            _screen.show(self._bar, share, state)

    def end(self) -> None:
        """Take the bar away."""
        if self.live:
            _screen.end(self._bar)
