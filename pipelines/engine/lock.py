"""The workspace lock: one driver at a time holds it; it names its owner and has a heartbeat."""

from __future__ import annotations

import errno
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from flowse import console
from flowse.errors import UserError
from flowse.json_records import from_json, to_json
from pipelines.engine.mirror import Mirror, mirror_of, no_fence
from pipelines.engine.store_lock import LEASE_S, store_lock

_BEAT_S = 5.0
_BUSY_TRIES = 10  # half a second each: a command that only looks needs the folder for moments
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EINVAL, errno.EXDEV)
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


@dataclass(frozen=True)
class Owner:
    """The driver that holds a workspace, as the file `LOCK` names it.

    Attributes:
        host: Name of its machine.
        pid: Its process there.
        process_start: When the kernel started that process, which tells it from a later one with the same number.
        command: What it runs.
        since: When it took the lock, local time.
    """

    host: str
    pid: str
    process_start: str
    command: str
    since: str

    @classmethod
    def me(cls, command: str) -> Owner:
        """Describe this process."""
        pid = os.getpid()
        since = time.strftime("%Y-%m-%d %H:%M:%S")
        return cls(socket.gethostname(), str(pid), _process_start(pid) or "", command, since)

    def is_gone(self, path: Path) -> bool:
        """Return whether the owner of a lock is gone: no such process here, or no heartbeat from another host."""
        if self.host == socket.gethostname():
            return _process_start(int(self.pid)) != self.process_start
        return time.time() - path.stat().st_mtime > _STALE_S


@contextmanager
def workspace_lock(workspace: Path, command: str) -> Iterator[None]:
    """Hold the workspace for one driver.

    A lock whose owner is dead (same host) or silent for a minute (another host) is taken over.

    Raises:
        UserError: Another driver holds the workspace; the message says which, where and since when.
    """
    if mirror := mirror_of(workspace):
        with _mirror_lock(mirror, command):
            yield
        return
    workspace.mkdir(parents=True, exist_ok=True)
    path = workspace / "LOCK"
    me = Owner.me(command)
    text = json.dumps(to_json(me))
    while True:
        try:
            _create(path, text)
            break
        except FileExistsError:
            _clear_stale(path)
    stop = threading.Event()

    def beat() -> None:
        """Renew the time of the lock until the driver is done; a lock that was deleted stays deleted."""
        while not stop.wait(_BEAT_S):
            with suppress(FileNotFoundError):
                os.utime(path)

    thread = threading.Thread(target=beat, daemon=True, name="workspace-lock")
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        with suppress(FileNotFoundError):
            if _read(path) == text:  # after a minute's silence another driver may have taken it over
                path.unlink()


@contextmanager
def _mirror_lock(mirror: Mirror, command: str) -> Iterator[None]:
    """Hold a workspace in a store, and its folder on this machine; at the end everything is published.

    Raises:
        UserError: Another driver holds one of them, or took over this one's.
    """
    with ExitStack() as stack:
        for _ in range(_BUSY_TRIES):
            if stack.enter_context(mirror.busy()):
                break
            time.sleep(0.5)
        else:
            raise UserError(
                f"{mirror.store.url}: in use by another process on this machine, in {mirror.folder}; wait for it, stop "
                "it, or give this run another cluster.scratch"
            )
        me = Owner.me(command)
        owner = {"command": me.command, "host": me.host, "pid": me.pid, "since": me.since}
        lock = stack.enter_context(store_lock(mirror.store, owner, _say_wait))
        mirror.pull()
        mirror.fence = lock.check
        try:
            yield
        except BaseException:
            with suppress(UserError, OSError):  # what ended the block is said, not this
                mirror.store.require_answer()  # a store that is away was waited for already
                mirror.publish()
            raise
        else:
            mirror.publish()
        finally:
            mirror.fence = no_fence


def _say_wait(url: str) -> None:
    console.say(f"{url}: locked by a run that may be dead; waiting {LEASE_S:g} s for a sign of life")


def _create(path: Path, text: str) -> None:
    """Write the lock, if there is none.

    Raises:
        FileExistsError: There is one.
    """
    # The draft is written whole under another name and then linked: a reader never sees an empty lock.
    draft = path.with_name(f".LOCK.{socket.gethostname()}.{os.getpid()}")
    draft.write_text(text, encoding="utf-8")
    try:
        os.link(draft, path)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        # Some file systems (exFAT, SMB, many FUSE mounts) have no hard links. Whoever reads between the two calls finds
        # an empty lock, which counts as held for a minute.
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    finally:
        draft.unlink(missing_ok=True)


def _read(path: Path) -> str:
    """Read the lock's text, whatever its bytes are."""
    return path.read_text(encoding="utf-8", errors="replace")


def _clear_stale(path: Path) -> None:
    """Remove the lock of an owner that is gone, and a damaged lock (a power cut, a full disk) after a minute.

    Raises:
        UserError: The owner is alive, or the file names none and is young.
    """
    try:
        text = _read(path)
        owner = _owner(text)
        gone = time.time() - path.stat().st_mtime > _STALE_S if owner is None else owner.is_gone(path)
    except FileNotFoundError:
        return
    except IsADirectoryError:
        raise UserError(f"{path} is a folder; a run writes its lock there: rename the folder") from None
    if owner is None and not gone:
        raise UserError(
            f"{path}: damaged, and written less than a minute ago; another run may be writing it: try again in a "
            "minute, or delete the file if no run is using this workspace"
        )
    if owner is not None and not gone:
        raise UserError(
            f"{path.parent}: in use by `{owner.command}` (process {owner.pid} on {owner.host}, since {owner.since}); "
            "wait for it, stop it, or give this run another --workspace"
        )
    aside = path.with_name(f".LOCK.stale.{os.getpid()}")
    path.replace(aside)
    if _read(aside) != text:  # another driver took the lock over in between: it gets it back
        aside.replace(path)
    aside.unlink(missing_ok=True)


def _owner(text: str) -> Owner | None:
    """Read who holds a lock; None if the text is empty, cut off or not a lock of this program."""
    try:
        owner = from_json(Owner, json.loads(text))
    except ValueError:
        return None
    return owner if owner.pid.isdigit() else None
