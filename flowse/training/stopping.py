"""A request to stop a training: a signal to one of its processes, or a file that another process writes."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import FrameType

_FILE = "stop"
_LOOK_S = 1.0


def request_stop(folder: Path) -> None:
    """Ask the training of a folder to save a checkpoint and to end."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _FILE).touch()


def withdraw_stop(folder: Path) -> None:
    """Forget a request, before a training begins."""
    (folder / _FILE).unlink(missing_ok=True)


class StopRequest(ExitStack):
    """Whether a training is asked to stop: by SIGTERM, by `request_stop`, or by whatever else `also` asks.

    As a context manager it handles SIGTERM, if it is used in the main thread; elsewhere signals cannot be handled.

    Example:
        >>> with StopRequest(folder) as stop:
        ...     while not stop():
        ...         step()
    """

    def __init__(self, folder: Path, also: Callable[[], bool] = lambda: False) -> None:
        """Look for requests to a folder's training.

        Args:
            folder: Folder of the training's progress.
            also: Further reason to stop; called about once a second.
        """
        super().__init__()
        self._path, self._also = folder / _FILE, also
        self._asked, self._next_look = False, 0.0

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            before = signal.signal(signal.SIGTERM, self._on_signal)
            self.callback(signal.signal, signal.SIGTERM, before)
        return self

    def _on_signal(self, _signal: int, _frame: FrameType | None) -> None:
        self._asked = True

    def __call__(self) -> bool:
        """Return whether a stop was asked for; the file and `also` are looked at about once a second."""
        if not self._asked and time.monotonic() >= self._next_look:
            self._next_look = time.monotonic() + _LOOK_S
            self._asked = self._path.exists() or self._also()
        return self._asked
