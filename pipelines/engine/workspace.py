"""Folders of outputs: a unit's files while they are written, finished stages, and all outputs of a workspace."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from flowse.data.manifest import Reject
from flowse.errors import UserError
from flowse.files import move_into_place, temporary_beside
from pipelines.engine.accounts import StageReport, Tally, UnitReport, account_unit
from pipelines.engine.fingerprint import Identity
from pipelines.engine.records import (
    IDENTITY_RECORD,
    QUARANTINE_SUFFIX,
    REJECTS_SUFFIX,
    STAGE_RECORD,
    FileFacts,
    RunFacts,
    StageRecord,
    UnitRecord,
    read_json,
    read_record,
    record_of,
    require_recorded,
    write_record,
)

_STAGE_REJECTS = "rejects.parquet"
# Files that say how a stage went but that no later stage reads: they do not enter its digest.
_NOT_READ = (_STAGE_REJECTS, ".html", ".png", ".txt")


class UnitFolder:
    """Where a worker writes one unit's files; keeps `pipelines.engine.stage.UnitOutput`."""

    def __init__(self, folder: Path, unit: str) -> None:
        """Prepare for a unit; nothing is written yet.

        Args:
            folder: The stage's folder.
            unit: Name of the unit.
        """
        self._folder = folder
        self._unit = unit
        self._written: dict[str, Path] = {}

    def path(self, suffix: str) -> Path:
        """Return a temporary path for the unit's file with this suffix.

        Raises:
            ValueError: The suffix is that of the unit's record.
        """
        if suffix == ".json":
            raise ValueError("the suffix .json belongs to the unit's record")
        return self._written.setdefault(suffix, temporary_beside(self._folder / f"{self._unit}{suffix}"))

    def commit(self, taken: Tally, report: UnitReport) -> StageReport:
        """Give the files their names, then write the unit's record; return the unit's account.

        Args:
            taken: What the unit holds, unless the report measured it.
            report: What the worker says of the unit.

        Raises:
            ValueError: The report does not account for every utterance; nothing is committed.
        """
        account = account_unit(taken, report)
        if report.rejects:
            from flowse.data.parquet import write_rows  # `status` reads records only and needs no pyarrow

            write_rows(self.path(REJECTS_SUFFIX), Reject, report.rejects)
        files = {}
        for suffix, temporary in sorted(self._written.items()):
            name = f"{self._unit}{suffix}"
            files[name] = FileFacts.of(temporary)
            move_into_place(temporary, self._folder / name)
        write_record(self._folder / f"{self._unit}.json", UnitRecord(self._unit, files, account))
        (self._folder / f"{self._unit}{QUARANTINE_SUFFIX}").unlink(missing_ok=True)
        return account

    def discard(self) -> None:
        """Remove what was written and not committed."""
        for temporary in self._written.values():
            temporary.unlink(missing_ok=True)


def _has_size(path: Path, facts: FileFacts) -> bool:
    """Whether a file is there with the recorded number of bytes (`verify` also hashes it)."""
    try:
        return path.stat().st_size == facts.bytes
    except (FileNotFoundError, NotADirectoryError):
        return False


def done_unit(folder: Path, unit: str) -> UnitRecord | None:
    """Return a unit's record if the unit is done: the record is there, and all its files have the recorded size.

    Raises:
        UserError: The record has another form; see `record_of`.
    """
    path = folder / f"{unit}.json"
    content = read_json(path)
    if not isinstance(content, dict) or content.get("unit") != unit:
        return None  # a stage-level file, such as dataset.json
    record = record_of(UnitRecord, content, path)
    return record if all(_has_size(folder / name, facts) for name, facts in record.files.items()) else None


def done_units(folder: Path) -> dict[str, UnitRecord]:
    """Return the records of all units of a stage's folder that are done, by unit, in order of name.

    Raises:
        UserError: A record has another form; see `record_of`.
    """
    names = sorted(path.stem for path in folder.glob("*.json") if path.name not in (STAGE_RECORD, IDENTITY_RECORD))
    records = {name: done_unit(folder, name) for name in names}
    return {name: record for name, record in records.items() if record is not None}


def commit_stage(
    folder: Path, report: StageReport, units: Iterable[str], files: Mapping[str, FileFacts], run: RunFacts
) -> StageRecord:
    """Write `STAGE.json`: from now on the stage exists for its readers.

    Args:
        folder: The stage's folder; the output's identity is in it already.
        report: What became of all utterances.
        units: Names of its units, all done.
        files: Stage-level files.
        run: How the output was made.

    Raises:
        UserError: The identity or a unit's record is gone.
    """
    identity = read_record(Identity, folder / IDENTITY_RECORD)
    if identity is None:
        raise UserError(f"{folder / IDENTITY_RECORD}: vanished while the stage ran; run the stage again")
    names = sorted(units)
    everything: dict[str, FileFacts] = {}
    for unit in names:
        done = done_unit(folder, unit)
        if done is None:
            raise UserError(f"{folder / unit}: vanished while the stage was being committed; run the stage again")
        everything |= done.files
    everything |= files
    digest = hashlib.sha256()
    for name in sorted(everything):
        if not name.endswith(_NOT_READ):
            digest.update(f"{name}:{everything[name].sha256}\n".encode())
    record = StageRecord(
        **vars(run),
        stage=identity.stage,
        fingerprint=folder.name,
        identity=identity,
        digest=digest.hexdigest(),
        report=report,
        units=tuple(names),
        files=everything,
    )
    write_record(folder / STAGE_RECORD, record)
    return record


@dataclass(frozen=True)
class StageFolder:
    """A finished stage as its readers see it; keeps `pipelines.engine.stage.StageOutput`.

    Attributes:
        folder: Where its files are.
        record: Its record.
    """

    folder: Path
    record: StageRecord

    @property
    def digest(self) -> str:
        """Hash over all files that later stages may read."""
        return self.record.digest

    @property
    def report(self) -> StageReport:
        """What became of all utterances."""
        return self.record.report

    def parts(self, suffix: str) -> list[Path]:
        """Return every unit's file with this suffix, ordered by unit name.

        Raises:
            DamagedFile: A file differs from its record; as in `file` and `tree`, it is hashed once a process.
        """
        names = (f"{unit}{suffix}" for unit in self.record.units)
        return [self._recorded(name) for name in names if name in self.record.files]

    def file(self, name: str) -> Path:
        """Return a stage-level file.

        Raises:
            UserError: The stage has no such file, or the file is damaged.
        """
        if name not in self.record.files:
            raise UserError(
                f"{self.folder}: the stage's record names no file {name!r}; run the stage again with --force"
            )
        return self._recorded(name)

    def tree(self, name: str) -> Path:
        """Return a stage-level folder, e.g. a model, all of whose recorded files are whole.

        Raises:
            UserError: The stage has no such folder, or a file in it is damaged.
        """
        inside = [known for known in self.record.files if known.startswith(f"{name}/")]
        if not inside:
            raise UserError(
                f"{self.folder}: the stage's record names no folder {name!r}; run the stage again with --force"
            )
        for known in inside:
            self._recorded(known)
        return self.folder / name

    def _recorded(self, name: str) -> Path:
        """Return the path of a file that the record names: every reader of an output gets its files from here."""
        return require_recorded(self.folder / name, self.record.files[name])

    def damaged(self) -> list[str]:
        """Name the files that are missing or have another size than recorded."""
        return [name for name, facts in self.record.files.items() if not _has_size(self.folder / name, facts)]

    def verify(self) -> list[str]:
        """Hash every file against its record; return one line for each that is wrong, missing or surplus."""
        faults = {name: facts.fault_of(self.folder / name) for name, facts in sorted(self.record.files.items())}
        wrong = [f"{self.folder / name}: {fault}" for name, fault in faults.items() if fault]
        expected = {
            *self.record.files,
            STAGE_RECORD,
            IDENTITY_RECORD,
            *(f"{unit}.json" for unit in self.record.units),
        }
        for path in sorted(self.folder.rglob("*")):
            name = path.relative_to(self.folder).as_posix()
            if (
                path.is_file()
                and name not in expected
                and not name.startswith(".")
                and not name.endswith(QUARANTINE_SUFFIX)
            ):
                wrong.append(f"{path}: not in the stage's record (surplus)")
        return wrong

    def forget_damaged(self) -> list[str]:
        """Delete the records of units with a wrong file, and of the stage; return the units' names.

        A wrong file that belongs to no unit only undoes the stage's record: it is then written again from the units.
        """
        wrong = [name for name, facts in self.record.files.items() if facts.fault_of(self.folder / name)]
        if not wrong:
            return []
        (self.folder / STAGE_RECORD).unlink()
        units = [unit for unit in self.record.units if any(name.startswith(f"{unit}.") for name in wrong)]
        for unit in units:
            (self.folder / f"{unit}.json").unlink(missing_ok=True)
        return units or ["stage files"]


def open_stage(folder: Path) -> StageFolder | None:
    """Return the finished stage in a folder; None if it was never committed.

    Raises:
        UserError: Its record has another form; see `record_of`.
    """
    record = read_record(StageRecord, folder / STAGE_RECORD)
    return None if record is None else StageFolder(folder, record)


def rejects_of(folder: Path) -> list[Path]:
    """Return the files of a stage's reject rows: one for the whole stage, or those of the units that are done."""
    whole = folder / _STAGE_REJECTS
    return [whole] if whole.exists() else sorted(folder.glob(f"*{REJECTS_SUFFIX}"))


@dataclass(frozen=True)
class Output:
    """One output of a stage, finished or begun: the folder `<workspace>/<stage>/<fingerprint>`.

    Attributes:
        folder: The folder.
        identity: What the output is a function of.
    """

    folder: Path
    identity: Identity

    @cached_property
    def finished(self) -> StageFolder | None:
        """The finished stage; None if it was only begun."""
        return open_stage(self.folder)

    @property
    def stage(self) -> str:
        """Name of the stage."""
        return self.folder.parent.name

    @property
    def fingerprint(self) -> str:
        """Name of the folder."""
        return self.folder.name

    @property
    def name(self) -> str:
        """Stage and fingerprint, e.g. "simulate/6e2f5d28da546903"."""
        return f"{self.stage}/{self.fingerprint}"

    def parts(self, suffix: str) -> list[Path]:
        """Return the files with this suffix of all units that are done."""
        if self.finished is not None:
            return self.finished.parts(suffix)
        done = done_units(self.folder)
        names = {f"{unit}{suffix}": record for unit, record in done.items()}
        return [
            require_recorded(self.folder / name, record.files[name])
            for name, record in names.items()
            if name in record.files
        ]

    def rejects(self) -> list[Path]:
        """Return the files of its reject rows."""
        return rejects_of(self.folder)


def output_folders(workspace: Path, stage: str) -> list[Path]:
    """Return the folders of all outputs of a stage, finished or begun, the one begun last at the end."""
    records = (workspace / stage).glob(f"*/{IDENTITY_RECORD}")
    return [path.parent for path in sorted(records, key=lambda path: (path.stat().st_mtime_ns, path))]


def outputs(workspace: Path, stages: Sequence[str]) -> list[Output]:
    """Return all outputs of the given stages, in that order, each stage's youngest last.

    Raises:
        UserError: A record has another form; see `record_of`.
    """
    found = []
    for stage in stages:
        for folder in output_folders(workspace, stage):
            identity = read_record(Identity, folder / IDENTITY_RECORD)
            if identity is not None:
                found.append(Output(folder, identity))
    return found
