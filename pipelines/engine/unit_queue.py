"""The units of one stage: which are done, which wait for a worker, which are tried again, which are quarantined."""

from __future__ import annotations

import dataclasses
import errno
import sys
import traceback
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flowse.console import say
from flowse.errors import UserError
from flowse.files import write_text
from flowse.refusal import CHANGED
from pipelines.engine.accounts import StageReport, Tally, UnitReport, merge
from pipelines.engine.progress import Count, UnitProgress
from pipelines.engine.records import QUARANTINE_SUFFIX, UnitRecord
from pipelines.engine.stage import Divisible, Unit, UnitOutput, Worker
from pipelines.engine.units import PAGE_UNITS, DoneUnits, UnitFolder, forget_units, write_page

WORKER_DIED = "worker_died"
"""Reason of the reject row of an utterance on which the process of a worker dies."""

_CULPRITS = 8  # rows of one unit on which workers may die before the unit is given up
_LOST_NODES = 10  # nodes that may be lost under a unit before that counts as its failure


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


@dataclass(frozen=True)
class Attempt:
    """A unit in the hands of a worker.

    Attributes:
        unit: The unit.
        is_probe: It holds a part of a unit on which workers die; nothing is committed.
    """

    unit: Unit[Any]
    is_probe: bool = False


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

    def run(
        self, folder: Path, attempt: Attempt, counted: Callable[[str, Count], None] | None = None
    ) -> UnitRecord | None:
        """Do one unit in the folder of the stage's units and commit it; return its record, None for a probe.

        Args:
            folder: Of the stage's units.
            attempt: The unit.
            counted: Told, while it is being done, how much of it is done.

        Raises:
            WorkerSetupError: The worker's constructor raised something else than a UserError.
            UserError: The worker says that a person has to mend something.
            ValueError: The worker's report does not account for every utterance.
        """
        unit = attempt.unit
        output = UnitFolder(folder, unit.name, counted)
        try:
            report = self.work(unit.payload, output)
            return None if attempt.is_probe else output.commit(unit.taken, report)
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


class CulpritSearch:
    """The search for the rows of a unit on which workers die, by halves.

    A probe is the unit with all rows refused but those of one half of the suspects. Once one row is left, the whole
    unit is tried again without it; should workers still die, there is another such row.
    """

    def __init__(self, unit: Unit[Any]) -> None:
        """Prepare; `begin` begins."""
        self._unit = unit
        self._payload: Divisible = unit.payload
        self._culprits: dict[int, tuple[str, str]] = {}
        self._suspects = range(0)
        self._half = range(0)
        self._why = ""
        self._begun = 0

    def begin(self, why: str) -> bool:
        """Suspect all rows that are not convicted yet; return whether a search is of any use.

        Args:
            why: How the worker died.
        """
        self._suspects = range(self._payload.rows)
        self._why = _last_line(why)
        self._begun += 1
        return self._begun <= min(_CULPRITS, self._payload.rows)

    def probed(self, *, died: bool) -> None:
        """Take in whether the worker died on the half that was tried."""
        self._suspects = self._half if died else range(self._half.stop, self._suspects.stop)

    def next(self) -> Attempt:
        """Return what is to be tried next: a probe, or the unit without its culprits."""
        if len(self._suspects) == 1:
            (row,) = self._suspects
            self._culprits[row] = (WORKER_DIED, f"a worker's process died on it: {self._why}")
            return Attempt(self._without(self._culprits))
        middle = (self._suspects.start + self._suspects.stop) // 2
        self._half = range(self._suspects.start, middle)
        others = {row: (WORKER_DIED, "not tried") for row in range(self._payload.rows) if row not in self._half}
        return Attempt(self._without(others | self._culprits), is_probe=True)

    def _without(self, rows: Mapping[int, tuple[str, str]]) -> Unit[Any]:
        return dataclasses.replace(self._unit, payload=self._payload.refuse(rows))


def _last_line(why: str) -> str:
    return why.strip().splitlines()[-1] if why.strip() else "no reason given"


class UnitQueue:
    """The units of a stage that still have to be done, and the accounts of those that are.

    A unit that raises, hangs or loses its worker is tried again, then quarantined. One on which workers *die* is first
    searched for the rows that kill them, if its payload can be divided: these become reject rows.

    Attributes:
        pending: What waits for a worker.
        on_done: Called with the record of every unit that is done.
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
        self.on_done: Callable[[UnitRecord], None] = lambda record: None
        self._names = [unit.name for unit in units]
        if len(set(self._names)) != len(self._names):
            raise ValueError(f"{stage}: unit names repeat")
        self._stage, self._folder, self._notes, self._retries = stage, folder, notes, retries
        self._tries: Counter[str] = Counter()
        self._lost_nodes: Counter[str] = Counter()
        self._searches: dict[str, CulpritSearch] = {}
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
        for begin in range(0, len(done.unpaged), PAGE_UNITS):
            write_page(folder, done.unpaged[begin : begin + PAGE_UNITS])
        new = [unit for unit in units if unit.name not in self._records]
        self.pending = deque(Attempt(unit) for unit in new)
        # Their files are lost, or they are tried again.
        forget_units(folder, [unit.name for unit in new if unit.name in done])
        before = sum((record.report.taken for record in self._records.values()), Tally())
        total = sum((unit.taken for unit in new), before)
        self.progress = UnitProgress(stage, len(units), total, len(self._records), before)
        for unit in self._records if any(notes.glob(f"*{QUARANTINE_SUFFIX}")) else ():
            self._note(unit).unlink(missing_ok=True)
        if new and self._records:
            say(f"{stage:<16} {len(new):,} of {len(units):,} units are new, the others are done already")

    def _note(self, unit: str) -> Path:
        return self._notes / f"{unit}{QUARANTINE_SUFFIX}"

    def done(self, attempt: Attempt, record: UnitRecord | None) -> None:
        """Count a unit that a worker has finished and committed."""
        if record is None:
            self._probed(attempt, died=False)
            return
        self._records[record.unit] = record
        self._worked_s += record.report.taken.seconds
        self._unpaged.append(record)
        if len(self._unpaged) == PAGE_UNITS:
            self._write_page()
        self._note(record.unit).unlink(missing_ok=True)
        self.progress.advance(record.unit, record.report.taken)
        self.on_done(record)

    def records(self) -> list[UnitRecord]:
        """Return the records of the units that are done, in the order in which they were given."""
        return [self._records[name] for name in self._names if name in self._records]

    def _write_page(self) -> None:
        """Copy the records of finished units to a page: the next run then reads it instead of a file a unit."""
        write_page(self._folder, self._unpaged)
        self._unpaged = []

    def raised(self, attempt: Attempt, error: BaseException, trace: str = "") -> None:
        """Decide what follows from an exception of a worker: the unit is tried again, quarantined, or all work stops.

        Args:
            attempt: What the worker failed on.
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
                f"{self._stage}: the disk is full (unit {attempt.unit.name} in {self._folder}); free some space and "
                "run again: finished units are kept"
            ) from None
        if attempt.is_probe:  # the worker lives
            self._probed(attempt, died=False)
        else:
            self.failed(attempt, trace or "".join(traceback.format_exception(error)))

    def failed(self, attempt: Attempt, why: str) -> None:
        """Put a unit that failed back into the queue, or into quarantine when its tries are used up."""
        if not self._again(attempt, why):
            self._quarantine(attempt.unit, why)

    def died(self, attempt: Attempt, why: str) -> None:
        """Decide what follows from the death of a worker's process: another try, a search for the row, quarantine."""
        unit = attempt.unit
        if attempt.is_probe:
            self._probed(attempt, died=True)
        elif self._again(attempt, why):
            return
        elif isinstance(unit.payload, Divisible):
            search = self._searches.setdefault(unit.name, CulpritSearch(unit))
            if search.begin(why):
                say(f"{self._stage:<16} unit {unit.name}: looking for the row on which workers die")
                self.pending.append(search.next())
            else:
                self._quarantine(unit, why)
        else:
            self._quarantine(unit, why)

    def node_lost(self, attempt: Attempt, why: str) -> None:
        """Put a unit back whose node is gone or goes: that says nothing of the unit, unless it goes on for ever.

        Args:
            attempt: The unit.
            why: What happened, e.g. "its node is lost".
        """
        name = attempt.unit.name
        self._lost_nodes[name] += 1
        if self._lost_nodes[name] > _LOST_NODES:
            self.failed(attempt, f"{why}; it was on {self._lost_nodes[name]} nodes that were lost")
            return
        say(f"{self._stage:<16} unit {name}: {why}, again on another")
        self.pending.append(attempt)

    def _again(self, attempt: Attempt, why: str) -> bool:
        """Put a unit back into the queue if it may be tried again."""
        name = attempt.unit.name
        self._tries[name] += 1
        if attempt.is_probe or self._tries[name] > self._retries:
            return False
        tries = f"try {self._tries[name]} of {self._retries + 1}"
        say(f"{self._stage:<16} unit {name} failed ({tries}), again: {_last_line(why)}")
        self.pending.append(attempt)
        return True

    def _probed(self, attempt: Attempt, *, died: bool) -> None:
        """Go on with the search for the rows on which workers die."""
        search = self._searches[attempt.unit.name]
        search.probed(died=died)
        self.pending.append(search.next())

    def _quarantine(self, unit: Unit[Any], why: str) -> None:
        """Give a unit up, and write down why."""
        note = self._note(unit.name)
        write_text(note, why + "\n")
        tries = self._tries[unit.name]
        say(f"{self._stage:<16} unit {unit.name} quarantined after {tries} tries: {_last_line(why)} (see {note})")
        self._quarantined.add(unit.name)

    def outcome(self) -> Outcome:
        """Return what became of the units, in the order in which they were given."""
        self.progress.end()
        self._write_page()
        records = {name: self._records[name] for name in self._names if name in self._records}
        return Outcome(records, tuple(name for name in self._names if name in self._quarantined), self._worked_s)
