"""Records of what is done: which files a unit or a stage has made, with their sizes and hashes, and from what.

The units of a stage lie in `<workspace>/<stage>/units/` (see `pipelines.engine.units`). An output of the stage is a
snapshot of them, the folder `<workspace>/<stage>/<fingerprint>/`. In it

    identity.json           an `Identity`, written when the work begins
    planned.json            names of the units that the output will consist of, until it is finished
    <unit>.quarantine.txt   why a unit is not done after all its tries
    units.json              the records of its units, in the order of the stage (`pipelines.engine.unit_table`)
    STAGE.json              a `StageRecord`, written last: the stage is finished, and others may read it

A file that no record names does not exist for readers. A record is written whole or not at all (`flowse.files`); one
that is absent, empty or cut is taken for absent, so that its work is done again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from flowse.errors import DamagedFile, UserError
from flowse.files import sha256_file, write_json
from flowse.json_records import WrongShape, from_json, to_json
from flowse.names import readable, why_unsafe
from pipelines.engine.accounts import StageReport
from pipelines.engine.fingerprint import Identity
from pipelines.engine.mirror import mirror_of

STAGE_RECORD = "STAGE.json"
IDENTITY_RECORD = "identity.json"
UNIT_LIST = "units.json"
PLANNED_UNITS = "planned.json"
REJECTS_SUFFIX = ".rejects.parquet"
QUARANTINE_SUFFIX = ".quarantine.txt"


@dataclass(frozen=True, slots=True)
class FileFacts:
    """What a record says of a file.

    Attributes:
        bytes: Its size.
        sha256: Hash of its content, hexadecimal.
    """

    bytes: int
    sha256: str

    @classmethod
    def of(cls, path: Path) -> FileFacts:
        """Measure and hash a file."""
        return cls(path.stat().st_size, sha256_file(path))

    def fault_of(self, path: Path) -> str | None:
        """Hash a file against the record and say what is wrong with it; None: nothing."""
        try:
            size = path.stat().st_size
            if size != self.bytes:
                return f"{size} bytes, recorded {self.bytes} (truncated?)"
            return None if sha256_file(path) == self.sha256 else "content differs from its record (sha256)"
        except (FileNotFoundError, NotADirectoryError):
            return "missing"
        except IsADirectoryError:
            return "a folder, recorded as a file"


_checked: set[tuple[str, int, int, str]] = set()


def require_recorded(path: Path, facts: FileFacts) -> Path:
    """Return the path of a file that is about to be read, after a comparison of its content with its record.

    Of a workspace in a store it is fetched first, if it is not here.

    A file is hashed once a process, and again if its size or time of change is another: a flipped bit is found before
    it becomes a wrong result, or an exception deep inside a decoder.

    Raises:
        DamagedFile: The file is missing, or differs from its record.
    """
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        known = None
    else:
        known = (str(path), status.st_size, status.st_mtime_ns, facts.sha256)
    if known is None or known not in _checked:
        fault = facts.fault_of(path)
        if fault and (mirror := mirror_of(path)):
            fault = facts.fault_of(path) if mirror.fetch(path, facts) else f"{fault}, and the store has none"
            known = None  # of another file
        if fault:
            raise DamagedFile(
                f"{path}: {fault}; `python -m pipelines verify --mend` forgets damaged files, a run makes them again"
            )
        if known is not None:
            _checked.add(known)
    return path


@dataclass(frozen=True)
class UnitRecord:
    """The record of a unit that is done.

    Attributes:
        unit: Name of the unit.
        files: Its files by name.
        report: What became of its utterances.

    Raises:
        ValueError: A name leads out of the stage's folder.
    """

    unit: str
    files: Mapping[str, FileFacts]
    report: StageReport = field(metadata={"key": "books"})

    def __post_init__(self) -> None:
        _refuse_unsafe(self.unit, *self.files)


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """How an output was made; none of it changes the output.

    Attributes:
        parents: Fingerprint of each output that it was made from, by stage.
        code_commit: Commit of the code that ran.
        versions: Version of each package that matters.
        seconds: How long the run took that finished it.
        finished_at: Local time, ISO 8601 with the offset from UTC.
        mlflow_run: Id of its MLflow run; None: there is none.
        worked_s: Length, in seconds, of what this run's units held; units that it found done do not count.
    """

    code_commit: str
    versions: Mapping[str, str]
    seconds: float
    finished_at: str
    parents: Mapping[str, str] = field(default_factory=dict, metadata={"optional": True})
    mlflow_run: str | None = field(default=None, metadata={"optional": True})
    worked_s: float = field(default=0.0, metadata={"optional": True})


@dataclass(frozen=True, kw_only=True)
class StageRecord(RunFacts):
    """The record of a finished stage.

    Attributes:
        stage: Name of the stage.
        fingerprint: Name of its folder, the hash of `identity`.
        identity: What the output is a function of.
        digest: Hash over all files that another stage may read.
        report: What became of all utterances.
        units: Number of its units, which `UNIT_LIST` names.
        files: Files of the stage itself, by path below the folder; `UNIT_LIST` is one of them.
        lacks: Quarantined units that it was allowed to do without (`--accept-quarantine`), and those that its inputs
            lack: "<stage>/<unit>".

    Raises:
        ValueError: A name leads out of the folder.
    """

    stage: str
    fingerprint: str
    identity: Identity
    digest: str
    report: StageReport = field(metadata={"key": "books"})
    units: int
    files: Mapping[str, FileFacts]
    lacks: tuple[str, ...] = field(default=(), metadata={"optional": True})

    def __post_init__(self) -> None:
        _refuse_unsafe(*self.lacks, *self.files)


def _refuse_unsafe(*names: str) -> None:
    """Refuse names of units and files that would lead out of the folder: `verify --mend` deletes by them."""
    for name in names:
        if why := why_unsafe(name):
            raise ValueError(f"{readable(name[:200])!r} is no name within the folder: {why}")


Record = TypeVar("Record", Identity, UnitRecord, StageRecord)

_REMEDIES = {
    Identity: "delete the folder, and its output is made again when it is needed",
    UnitRecord: "delete this file, and the unit is done again",
    StageRecord: "delete this file, and the stage is finished again from the units that are done",
}


def read_record(kind: type[Record], path: Path) -> Record | None:
    """Read a record; None if the file is absent or no JSON.

    Raises:
        UserError: As in `record_of`.
    """
    content = read_json(path)
    return None if content is None else record_of(kind, content, path)


def read_json(path: Path) -> object:
    """Read a JSON file; None if it is absent or no JSON (emptied, cut)."""
    try:
        return json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError, ValueError, RecursionError):
        return None


def record_of(kind: type[Record], content: object, path: Path) -> Record:
    """Build a record from the content of a file.

    Raises:
        UserError: It has another form: the message names the file, says what is wrong with it and what to do.
    """
    if kind is StageRecord and isinstance(content, dict) and isinstance(content.get("units"), list):
        raise UserError(
            f"{path}: written by an earlier version, whose units lay in the output's own folder; run the stage again, "
            "and `python -m pipelines gc --yes` frees the old output"
        )
    try:
        return from_json(kind, content)
    except WrongShape as error:
        raise UserError(
            f"{path}: not a record that this version reads: {error}; use the version that wrote it, or "
            f"{_REMEDIES[kind]}"
        ) from None


def write_record(path: Path, record: Identity | UnitRecord | StageRecord) -> None:
    """Write a record so that it is whole or as before."""
    write_json(path, to_json(record))
