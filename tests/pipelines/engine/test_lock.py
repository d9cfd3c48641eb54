"""The workspace lock: one driver at a time, and the dead do not hold it."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flowse.errors import UserError
from pipelines.engine import lock
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
    path = tmp_path / "LOCK"
    owner = {"host": "elsewhere", "pid": "1", "process_start": "1", "command": "run", "since": "today"}
    path.write_text(json.dumps(owner))
    os.utime(path, (time.time() - age_s,) * 2)
    if taken_over:
        with workspace_lock(tmp_path, "second"):
            pass
    else:
        with pytest.raises(UserError, match="elsewhere"), workspace_lock(tmp_path, "second"):
            pass


def test_a_lock_that_was_deleted_is_not_made_again_by_the_heartbeat(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "_BEAT_S", 0.01)
    with workspace_lock(tmp_path, "first"):
        (tmp_path / "LOCK").unlink()
        time.sleep(0.1)
        assert not (tmp_path / "LOCK").exists()


def test_the_heartbeat_renews_the_locks_time_and_not_its_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "_BEAT_S", 0.01)
    with workspace_lock(tmp_path, "first"):
        text = (tmp_path / "LOCK").read_text()
        os.utime(tmp_path / "LOCK", (1, 1))
        deadline = time.monotonic() + 60
        while (tmp_path / "LOCK").stat().st_mtime < 2:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert (tmp_path / "LOCK").read_text() == text


def test_a_lock_that_another_driver_took_over_is_left_to_it(tmp_path: Path) -> None:
    other = {"host": "elsewhere", "pid": "1", "process_start": "1", "command": "run", "since": "today"}
    with workspace_lock(tmp_path, "first"):
        (tmp_path / "LOCK").write_text(json.dumps(other))
    assert json.loads((tmp_path / "LOCK").read_text()) == other


DAMAGED = ["", "{", "[]", "null", '{"host": 1}', '{"pid": "x"}', "\x00" * 300, "\ufffd"]


@pytest.mark.parametrize("text", DAMAGED)
def test_a_damaged_lock_is_one_line_while_it_is_young_and_is_taken_over_when_it_is_old(
    tmp_path: Path, text: str
) -> None:
    (tmp_path / "LOCK").write_text(text, encoding="utf-8")
    with (
        pytest.raises(UserError, match="LOCK: damaged, and written less than a minute ago"),
        workspace_lock(tmp_path, "second"),
    ):
        pass
    os.utime(tmp_path / "LOCK", (0, 0))
    with workspace_lock(tmp_path, "second"):
        assert json.loads((tmp_path / "LOCK").read_text())["command"] == "second"
    assert list(tmp_path.iterdir()) == []


def test_a_folder_in_the_lock_s_place_is_named(tmp_path: Path) -> None:
    (tmp_path / "LOCK").mkdir()
    with pytest.raises(UserError, match="is a folder"), workspace_lock(tmp_path, "second"):
        pass


def test_a_file_system_without_hard_links_locks_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(source: Path, target: Path) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    with workspace_lock(tmp_path, "first"):
        assert json.loads((tmp_path / "LOCK").read_text())["command"] == "first"
        with pytest.raises(UserError, match="in use by `first`"), workspace_lock(tmp_path, "second"):
            pass
    assert list(tmp_path.iterdir()) == []
