"""Where copies of files from stores lie on this machine, and how much room they may take together.

Copies are deleted when they take more, those that were not read for the longest time first. One that was used within
the last two minutes stays, and so does one that is being sent: each file that goes up is locked (`in_use`).
"""

from __future__ import annotations

import fcntl
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from flowse.errors import UserError

_IDLE_S = 120.0
_TOUCH_S = 30.0
_LEAST_GROWTH = 64 << 20


@dataclass
class Scratch:
    """The copies of this process' machine.

    Attributes:
        folder: As `cluster.scratch` names it; empty: each program has its own default.
        most_bytes: What copies may take together; 0: no limit.
        tables_stay: Whether copies of `.parquet` files of units stay: the driver reads them by their paths.
    """

    folder: str = ""
    most_bytes: int = 0
    tables_stay: bool = True
    _tops: set[Path] = field(default_factory=set)
    _grown: int = 0
    _guard: threading.Lock = field(default_factory=threading.Lock)

    def grew(self, top: Path, size: int) -> None:
        """Take note of a new copy below a folder; old ones are deleted if there are too many."""
        with self._guard:
            self._tops.add(top)
            self._grown += size
            if not self.most_bytes or self._grown < max(_LEAST_GROWTH, self.most_bytes // 20):
                return
            self._grown = 0
            tops = list(self._tops)
        self.trim(tops)

    def trim(self, tops: list[Path]) -> int:
        """Delete the copies that were not read for the longest time until the others fit; return the bytes freed.

        Args:
            tops: Folders of workspaces (`<stage>/units/<file>`) and of other copies.
        """
        lock = tops[0] / ".trim"
        with lock.open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                return 0  # another process of this machine is at it
            found = sorted((entry for top in tops for entry in self._copies(top)), key=lambda entry: entry[0])
            left, freed, young = sum(size for _, size, _ in found), 0, time.time() - _IDLE_S
            for used_s, size, path in found:
                if left - freed <= self.most_bytes or used_s > young:
                    break
                if _delete(path):
                    freed += size
            return freed

    def _copies(self, top: Path) -> Iterator[tuple[float, int, Path]]:
        """Yield time of last use, size and path of the copies below a folder."""
        folders = [*top.glob("*/units")] or [top]
        for folder in folders:
            for below, _, names in os.walk(folder):
                for name in names:
                    if name.startswith(".") or (name.endswith(".json") and folder != top):
                        continue
                    if self.tables_stay and folder != top and name.endswith(".parquet"):
                        continue
                    path = Path(below, name)
                    try:
                        status = path.stat()
                    except FileNotFoundError:
                        continue
                    yield max(status.st_atime, status.st_mtime), status.st_size, path


_scratch = Scratch()


def scratch() -> Scratch:
    """Return the copies of this machine."""
    return _scratch


def use_scratch(folder: str, gigabytes: float, *, tables_stay: bool = True) -> Scratch:
    """Say where the copies of this process' machine lie, and how many gigabytes (1e9 bytes) they may take; 0: any."""
    _scratch.folder, _scratch.most_bytes, _scratch.tables_stay = folder, int(gigabytes * 1e9), tables_stay
    return _scratch


def node_folder(named: str) -> Path:
    """Return the folder of the copies on a machine that is not the driver's; it is made, for this user alone.

    Args:
        named: What `cluster.scratch` names; empty: a folder among the temporary files of the machine.

    Raises:
        UserError: It belongs to another user.
    """
    folder = (
        Path(named).expanduser() / ".node" if named else Path(tempfile.gettempdir()) / f"flowse-copies-{os.getuid()}"
    )
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if folder.stat().st_uid != os.getuid():
        raise UserError(f"{folder}: belongs to another user; give cluster.scratch a folder of your own")
    return folder


def touch(path: Path) -> bool:
    """Note that a copy is used now; return whether it is there."""
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    if time.time() - status.st_atime > _TOUCH_S:
        try:
            os.utime(path, ns=(time.time_ns(), status.st_mtime_ns))
        except PermissionError:
            return True
        except FileNotFoundError:
            return False
    return True


@contextmanager
def in_use(path: Path) -> Iterator[None]:
    """Keep a file from being deleted by `Scratch.trim` while the block runs."""
    with path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        yield


def _delete(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()
    except OSError:
        return False
    if path.parent.name != "units":
        with suppress(OSError):  # others lie in it
            path.parent.rmdir()
    return True
