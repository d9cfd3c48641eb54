"""The workspace lock: one driver at a time holds it; it names its owner and has a heartbeat."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flowse.errors import UserError

_BEAT_S = 5.0
_STALE_S = 60.0  # a heartbeat older than this, on another host, means that its owner is gone


def _process_start(pid: int) -> str | None:
    """Return the kernel's start time of a process, by which a reused pid differs; None if there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[19]
    except (FileNotFoundError, ProcessLookupError):
        if Path("/proc/self/stat").exists():
            return None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    return "unknown"


def _is_stale(path: Path, owner: dict[str, str]) -> bool:
    """Return whether the owner of a lock is gone: no such process here, or no heartbeat from another host."""
    if owner.get("host") == socket.gethostname():
        return _process_start(int(owner.get("pid", 0))) != owner.get("process_start")
    return time.time() - path.stat().st_mtime > _STALE_S


@contextmanager
def workspace_lock(workspace: Path, command: str) -> Iterator[None]:
    """Hold the workspace for one driver.

    A lock whose owner is dead (same host) or silent for a minute (another host) is taken over.

    Raises:
        UserError: Another driver holds the workspace; the message says which, where and since when.
    """
    workspace.mkdir(parents=True, exist_ok=True)
    path = workspace / "LOCK"
    me = {
        "host": socket.gethostname(),
        "pid": str(os.getpid()),
        "process_start": _process_start(os.getpid()) or "",
        "command": command,
        "since": time.strftime("%Y-%m-%d %H:%M:%S"),
    }
    while True:
        # The draft is written whole under another name and then linked: a reader never sees an empty lock.
        draft = workspace / f".LOCK.{me['host']}.{me['pid']}"
        draft.write_text(json.dumps(me))
        try:
            os.link(draft, path)
            break
        except FileExistsError:
            _clear_stale(path)
        finally:
            draft.unlink(missing_ok=True)
    stop = threading.Event()

    def beat() -> None:
        """Touch the lock until the driver is done."""
        while not stop.wait(_BEAT_S):
            path.touch()

    thread = threading.Thread(target=beat, daemon=True, name="workspace-lock")
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        path.unlink(missing_ok=True)


def _clear_stale(path: Path) -> None:
    """Remove the lock of an owner that is gone.

    Raises:
        UserError: The owner is alive.
    """
    try:
        text = path.read_text()
        owner = json.loads(text)
    except FileNotFoundError:
        return
    if not _is_stale(path, owner):
        raise UserError(
            f"{path.parent}: in use by `{owner['command']}` (process {owner['pid']} on {owner['host']}, since "
            f"{owner['since']}); wait for it, stop it, or give this run another --workspace"
        )
    aside = path.with_name(f".LOCK.stale.{os.getpid()}")
    path.replace(aside)
    if aside.read_text() != text:  # another driver took the lock over in between: it gets it back
        aside.replace(path)
    aside.unlink(missing_ok=True)
