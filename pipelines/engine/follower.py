"""Units of the next stage, done while a stage still runs: as soon as its unit is committed and a worker is free.

A unit's key is a hash of its own input and of settings, so a unit that is done early is the unit that the next stage
would do: it finds it done. What fails early is left to that stage, which tries again and accounts for it.

Of a workspace in a store the driver fetches the files of committed units as they are committed, several at a time. That
stage would fetch them anyway, so the store is asked for nothing more.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from flowse.errors import UserError
from pipelines.engine.fingerprint import UnitKeys
from pipelines.engine.mirror import mirror_of
from pipelines.engine.records import UnitRecord
from pipelines.engine.resources import Resources
from pipelines.engine.stage import Following, UnitFile
from pipelines.engine.unit_queue import Attempt, WorkerSetupError
from pipelines.engine.units import DoneUnits, label_of

_AT_ONCE = 8  # files that are fetched at the same time


@dataclass(frozen=True)
class Follower:
    """The stage that follows, and where its units go.

    Attributes:
        stage: Name.
        following: How it makes units, and who does them.
        keys: Gives its units their keys.
        folder: Of its units.
        resources: What one worker takes.
    """

    stage: str
    following: Following
    keys: UnitKeys
    folder: Path
    resources: Resources


class FollowerUnits:
    """The units that are there already; keeps `pipelines.engine.worker_pool.Units`.

    Attributes:
        pending: What waits for a worker.
        count: Units that are done.
    """

    def __init__(self, follower: Follower) -> None:
        """Look which units are done."""
        self._follower = follower
        follower.folder.mkdir(parents=True, exist_ok=True)
        self._done = DoneUnits(follower.folder)
        self._has_ended = False
        self._fetching: ThreadPoolExecutor | None = None
        self.pending: deque[Attempt] = deque()
        self.count = 0

    def add(self, records: Iterable[UnitRecord], folder: Path) -> None:
        """Make units of those that are committed; in a store they are there a little later.

        Args:
            records: Of units of the stage before.
            folder: Where these are.
        """
        in_store = mirror_of(folder) is not None
        for record in () if self._has_ended else records:
            if f"{record.unit}{self._follower.following.suffix}" not in record.files:
                continue
            if in_store:
                self._fetching = self._fetching or ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="follower")
                self._fetching.submit(self._add, record, folder)
            else:
                self._add(record, folder)

    def _add(self, record: UnitRecord, folder: Path) -> None:
        """Make a unit of one that is committed, whose file is fetched first if it is not here."""
        following = self._follower.following
        name = f"{record.unit}{following.suffix}"
        path, sha256 = folder / name, record.files[name].sha256
        try:
            if mirror := mirror_of(folder):
                mirror.know(path, sha256)
                path = mirror.fetched(path, sha256)
            unit = following.unit_of(UnitFile(path, label_of(record.unit), sha256, record.unit))
        except (UserError, OSError, ValueError):  # the stage itself will say so
            return
        keyed = dataclasses.replace(unit, key=self._follower.keys(unit.content))
        if keyed.name not in self._done and not self._has_ended:
            self.pending.append(Attempt(keyed))

    def end(self) -> None:
        """Take nothing up any more."""
        self._has_ended = True
        if self._fetching is not None:
            self._fetching.shutdown(wait=False, cancel_futures=True)
        self.pending.clear()

    def done(self, attempt: Attempt, record: UnitRecord | None) -> None:
        """Count a unit that is done."""
        self.count += 1

    def raised(self, attempt: Attempt, error: BaseException, trace: str = "") -> None:
        """Leave a unit to the stage; if no unit would fare better, leave all."""
        if isinstance(error, UserError | WorkerSetupError | OSError):
            self.end()

    def failed(self, attempt: Attempt, why: str) -> None:
        """Leave a unit to the stage."""

    def died(self, attempt: Attempt, why: str) -> None:
        """Leave a unit to the stage, which searches for the row that kills workers."""

    def node_lost(self, attempt: Attempt, why: str) -> None:
        """Leave a unit to the stage."""
