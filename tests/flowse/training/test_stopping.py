"""Laws of a request to stop: by a signal, by a file, or by another reason; the old handler comes back."""

import os
import signal
import threading
from pathlib import Path

from flowse.training.stopping import StopRequest, request_stop, withdraw_stop


def test_sigterm_is_a_request_and_the_old_handler_comes_back(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with StopRequest(tmp_path) as stop:
        assert not stop()
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop()
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_file_is_a_request_until_it_is_withdrawn(tmp_path: Path) -> None:
    request_stop(tmp_path / "new")
    assert StopRequest(tmp_path / "new")()
    withdraw_stop(tmp_path / "new")
    assert not StopRequest(tmp_path / "new")()


def test_another_reason_counts_too_also_outside_the_main_thread(tmp_path: Path) -> None:
    found = []

    def ask() -> None:
        with StopRequest(tmp_path, also=lambda: True) as stop:
            found.append(stop())

    thread = threading.Thread(target=ask)
    thread.start()
    thread.join()
    assert found == [True]
