"""Signal handling of the recipes: a training that gets SIGTERM or Ctrl-C saves a checkpoint before it stops."""

from __future__ import annotations

import signal
import threading
from types import FrameType


def stop_on_signal() -> threading.Event:
    """Return an event that SIGTERM or SIGINT sets; call this function from the main thread."""
    requested = threading.Event()

    def request(_signal: int, _frame: FrameType | None) -> None:
        requested.set()

    signal.signal(signal.SIGTERM, request)
    signal.signal(signal.SIGINT, request)
    return requested
