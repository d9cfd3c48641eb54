"""The workspace lock: one driver at a time, and the dead do not hold it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flowse.errors import UserError
from pipelines.engine.lock import workspace_lock

HOLDER = """
import sys, time
from pathlib import Path
from pipelines.engine.lock import workspace_lock
with workspace_lock(Path(sys.argv[1]), "first run"):
    print("held", flush=True)
    time.sleep(60)
"""


def hold(workspace: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(workspace)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_the_second_driver_is_told_who_holds_it(tmp_path: Path) -> None:
    process = hold(tmp_path)
    try:
        with pytest.raises(UserError, match=rf"first run.*process {process.pid}"), workspace_lock(tmp_path, "second"):
            pass
    finally:
        process.kill()
        process.communicate()


def test_a_killed_drivers_lock_is_taken_over(tmp_path: Path) -> None:
    process = hold(tmp_path)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    with workspace_lock(tmp_path, "second"):
        assert json.loads((tmp_path / "LOCK").read_text())["command"] == "second"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("age_s", "taken_over"), [(10, False), (120, True)])
def test_on_another_host_the_heartbeat_decides(tmp_path: Path, age_s: float, taken_over: bool) -> None:
    lock = tmp_path / "LOCK"
    owner = {"host": "elsewhere", "pid": "1", "process_start": "1", "command": "run", "since": "today"}
    lock.write_text(json.dumps(owner))
    os.utime(lock, (time.time() - age_s,) * 2)
    if taken_over:
        with workspace_lock(tmp_path, "second"):
            pass
    else:
        with pytest.raises(UserError, match="elsewhere"), workspace_lock(tmp_path, "second"):
            pass
