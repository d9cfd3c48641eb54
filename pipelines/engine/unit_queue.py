"""The units of one stage: which are done, which wait for a worker, which are tried again, which are quarantined."""

from __future__ import annotations

import errno
import sys
import traceback
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flowse.errors import UserError
from flowse.files import write_text
from flowse.refusal import CHANGED
from pipelines.engine.accounts import StageReport, Tally, UnitReport, merge
from pipelines.engine.console import Progress, say
from pipelines.engine.records import QUARANTINE_SUFFIX, UnitRecord
from pipelines.engine.stage import Unit, UnitOutput, Worker
from pipelines.engine.units import PAGE_UNITS, DoneUnits, UnitFolder, forget_units, write_page


@dataclass(frozen=True)
class Outcome:
    """What became of units.

    Attributes:
        records: Records of those that are done, by name, in the order in which the units were given.
        quarantined: Names of those that failed for infrastructure's sake, in that order.
        worked_s: Length, in seconds, of what the units held that were done now.
    """

    records: Mapping[str, UnitRecord]
    quarantined: tuple[str, ...]
    worked_s: float = 0.0

    @property
    def report(self) -> StageReport:
        """The account of all units together."""
        given_up = StageReport(taken=Tally(), kept=Tally(), quarantined=self.quarantined)
        return merge([*(record.report for record in self.records.values()), given_up])


class WorkerSetupError(Exception):
    """A worker could not be built; trying the next unit would not help."""


class UnitHost:
    """A stage's worker in one process: it is built when the first unit comes, and what it writes is committed."""

    def __init__(self, worker: Callable[..., Worker[Any]], arguments: Sequence[Any], threads: int) -> None:
        """Remember how to build the worker.

        Args:
            worker: Called with `arguments`.
            arguments: For the worker's constructor.
            threads: Threads that torch may use.
        """
        self._build, self._arguments, self._threads = worker, tuple(arguments), threads
        self._worker: Worker[Any] | None = None

    def run(self, folder: Path, unit: Unit[Any]) -> UnitRecord:
        """Do one unit in the folder of the stage's units and commit it; return its record.

        Raises:
            WorkerSetupError: The worker's constructor raised something else than a UserError.
            UserError: The worker says that a person has to mend something.
            ValueError: The worker's report does not account for every utterance.
        """
        output = UnitFolder(folder, unit.name)
        try:
            return output.commit(unit.taken, self.work(unit.payload, output))
        finally:
            output.discard()

    def work(self, payload: Any, output: UnitOutput) -> UnitReport:
        """Call the worker, which is built first if it is not there yet; see `run` for what is raised."""
        if self._worker is None:
            self._limit_torch()
            try:
                self._worker = self._build(*self._arguments)
            except UserError:
                raise
            except Exception as error:
                raise WorkerSetupError(f"{type(error).__name__}: {error}") from error
            self._limit_torch()  # now that the worker has loaded it
        return self._worker(payload, output)

    def _limit_torch(self) -> None:
        """Set torch's number of threads if it is loaded: a stage without torch must not pay seconds for its import."""
        # Ray sets OMP_NUM_THREADS, but torch counts cores by itself where something else asked it to.
        if "torch" in sys.modules:
            sys.modules["torch"].set_num_threads(max(1, self._threads))


class UnitQueue:
    """The units of a stage that still have to be done, and the accounts of those that are.

    Attributes:
        pending: Units that wait for a worker.
    """

    def __init__(self, stage: str, units: Sequence[Unit[Any]], folder: Path, notes: Path, retries: int) -> None:
        """Look for units that an earlier run has done, and remove what killed processes left.

        Args:
            stage: Name, for messages.
            units: All units of the stage; names must differ.
            folder: Of the stage's units.
            notes: Where it is written why a unit is quarantined.
            retries: How often a failed unit is tried again.

        Raises:
            ValueError: Two units have the same name.
        """
        self._names = [unit.name for unit in units]
        if len(set(self._names)) != len(self._names):
            raise ValueError(f"{stage}: unit names repeat")
        self._stage, self._folder, self._notes, self._retries = stage, folder, notes, retries
        self._tries: dict[str, int] = {}
        self._quarantined: set[str] = set()
        self._worked_s = 0.0
        self._unpaged: list[UnitRecord] = []
        done = DoneUnits(folder)
        done.remove_temporaries()
        self._records = {
            name: record
            for name, record in done.records(self._names).items()
            if CHANGED not in record.report.failed  # the audio may be back
        }
        self.pending = deque(unit for unit in units if unit.name not in self._records)
        # Their files are lost, or they are tried again.
        forget_units(folder, [unit.name for unit in self.pending if unit.name in done])
        before = merge(record.report for record in self._records.values()).taken
        total = sum((unit.taken for unit in self.pending), before)
        self.progress = Progress(stage, len(units), total, len(self._records), before)
        for unit in self._records if any(notes.glob(f"*{QUARANTINE_SUFFIX}")) else ():
            self._note(unit).unlink(missing_ok=True)
        if self.pending and self._records:
            say(f"{stage:<16} {len(self.pending):,} of {len(units):,} units are new, the others are done already")

    def _note(self, unit: str) -> Path:
        return self._notes / f"{unit}{QUARANTINE_SUFFIX}"

    def done(self, unit: Unit[Any], record: UnitRecord) -> None:
        """Count a unit that a worker has finished and committed."""
        self._records[unit.name] = record
        self._worked_s += record.report.taken.seconds
        self._unpaged.append(record)
        if len(self._unpaged) == PAGE_UNITS:
            self._write_page()
        self._note(unit.name).unlink(missing_ok=True)
        self.progress.advance(record.report.taken)

    def _write_page(self) -> None:
        """Copy the records of finished units to a page: the next run then reads it instead of a file a unit."""
        write_page(self._folder, self._unpaged)
        self._unpaged = []

    def raised(self, unit: Unit[Any], error: BaseException, trace: str = "") -> None:
        """Decide what follows from an exception of a worker: the unit is tried again, quarantined, or all work stops.

        Args:
            unit: Unit on which the worker failed.
            error: Exception that the worker raised.
            trace: The traceback for the quarantine note; empty: that of `error`.

        Raises:
            UserError: The next unit would fare no better: a person must mend something, the worker cannot be built, or
                the disk is full.
        """
        if isinstance(error, UserError):
            raise error from None
        if isinstance(error, WorkerSetupError):
            raise UserError(f"{self._stage}: a worker could not be set up: {error}") from error
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(
                f"{self._stage}: the disk is full (unit {unit.name} in {self._folder}); free some space and run "
                "again: finished units are kept"
            ) from None
        self.failed(unit, trace or "".join(traceback.format_exception(error)))

    def failed(self, unit: Unit[Any], why: str) -> None:
        """Put a failed unit back into the queue, or into quarantine when its tries are used up."""
        tries = self._tries[unit.name] = self._tries.get(unit.name, 0) + 1
        last_line = why.strip().splitlines()[-1] if why.strip() else "no reason given"
        if tries <= self._retries:
            say(f"{self._stage:<16} unit {unit.name} failed (try {tries} of {self._retries + 1}), again: {last_line}")
            self.pending.append(unit)
            return
        note = self._note(unit.name)
        write_text(note, why + "\n")
        say(f"{self._stage:<16} unit {unit.name} quarantined after {tries} tries: {last_line} (see {note})")
        self._quarantined.add(unit.name)

    def outcome(self) -> Outcome:
        """Return what became of the units, in the order in which they were given."""
        self._write_page()
        records = {name: self._records[name] for name in self._names if name in self._records}
        return Outcome(records, tuple(name for name in self._names if name in self._quarantined), self._worked_s)
