"""Laws of stopping: a signal sets the event and does not interrupt the program."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from pipelines.pretrain.stopping import stop_on_signal


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    kept = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in kept.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_sets_the_event_and_does_not_interrupt(number: signal.Signals) -> None:
    requested = stop_on_signal()
    assert not requested.is_set()
    os.kill(os.getpid(), number)
    assert requested.wait(5.0)
