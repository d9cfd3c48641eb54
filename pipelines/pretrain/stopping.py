"""A training that is asked to stop (SIGTERM, Ctrl-C) saves first."""

from __future__ import annotations

import signal
import threading
from types import FrameType


def stop_on_signal() -> threading.Event:
    """Return an event that is set once the process is asked to stop; call it from the main thread."""
    asked = threading.Event()

    def ask(_signal: int, _frame: FrameType | None) -> None:
        asked.set()

    signal.signal(signal.SIGTERM, ask)
    signal.signal(signal.SIGINT, ask)
    return asked
