"""Outputs of stages: snapshots of the stage's units as their readers see them, and all outputs of a workspace."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from flowse.errors import DamagedFile, UserError
from flowse.files import write_json, write_text
from pipelines.engine.accounts import StageReport
from pipelines.engine.fingerprint import LAYOUT, Identity
from pipelines.engine.mirror import mirror_of
from pipelines.engine.records import (
    IDENTITY_RECORD,
    PLANNED_UNITS,
    QUARANTINE_SUFFIX,
    REJECTS_SUFFIX,
    STAGE_RECORD,
    UNIT_LIST,
    FileFacts,
    RunFacts,
    StageRecord,
    UnitRecord,
    read_json,
    read_record,
    require_recorded,
    write_record,
)
from pipelines.engine.stage import UnitFile
from pipelines.engine.unit_table import UnitTable
from pipelines.engine.units import UNITS, DoneUnits, forget_units, label_of

_STAGE_REJECTS = "rejects.parquet"
_TABLE = ".parquet"
# Files that say how a stage went but that no later stage reads: they do not enter its digest.
_NOT_READ = (_STAGE_REJECTS, UNIT_LIST, ".html", ".png", ".txt")


def units_of(folder: Path) -> Path:
    """Return the folder of the units of which an output is a snapshot."""
    return folder.parent / UNITS


def _has_size(path: Path, facts: FileFacts) -> bool:
    """Whether a file is there with the recorded number of bytes (`verify` also hashes it)."""
    try:
        return path.stat().st_size == facts.bytes
    except (FileNotFoundError, NotADirectoryError):
        return False


def commit_stage(
    folder: Path,
    report: StageReport,
    units: Sequence[UnitRecord],
    files: Mapping[str, FileFacts],
    run: RunFacts,
    *,
    hidden: Collection[str] = (),
    lacks: Collection[str] = (),
) -> StageRecord:
    """Write `STAGE.json`: from now on the stage exists for its readers.

    Args:
        folder: The output's folder; its identity is in it already.
        report: What became of all utterances.
        units: The units that it consists of, all done, in the order in which readers see them.
        files: Stage-level files.
        run: How the output was made.
        hidden: Names of the units that readers do not see.
        lacks: Quarantined units that it does without, "<stage>/<unit>".

    Raises:
        UserError: The identity or a unit is gone.
    """
    identity = read_record(Identity, folder / IDENTITY_RECORD)
    if identity is None:
        raise UserError(f"{folder / IDENTITY_RECORD}: vanished while the stage ran; run the stage again")
    done = DoneUnits(units_of(folder))
    for unit in units:
        if unit.unit not in done or not done.names.issuperset(unit.files):
            raise UserError(
                f"{done.folder / unit.unit}: vanished while the stage was being committed; run the stage again"
            )
    table = UnitTable.of(units, hidden)
    write_text(folder / UNIT_LIST, table.to_text())
    everything = dict(files) | {UNIT_LIST: FileFacts.of(folder / UNIT_LIST)}
    record = StageRecord(
        **vars(run),
        stage=identity.stage,
        fingerprint=folder.name,
        identity=identity,
        digest=_digest(table, everything),
        report=report,
        units=len(table) - len(table.hidden),
        files=everything,
        lacks=tuple(sorted(lacks)),
    )
    write_record(folder / STAGE_RECORD, record)
    (folder / PLANNED_UNITS).unlink(missing_ok=True)
    if mirror := mirror_of(folder):
        mirror.publish(folder.parent.name)
    return record


def _digest(table: UnitTable, files: Mapping[str, FileFacts]) -> str:
    """Hash what readers can read.

    Of the units' files that is suffix and content, in the order of the units. Their names say under which settings they
    were made: where other settings make equal files, a reader of them stays fresh.
    """
    digest = hashlib.sha256()
    for suffix in sorted(table.columns["suffixes"]):
        if not suffix.endswith(_NOT_READ):
            for _, facts in table.files(suffix):
                digest.update(f"{suffix}:{facts.sha256}\n".encode())
    for name in sorted(files):
        if not name.endswith(_NOT_READ):
            digest.update(f"{name}:{files[name].sha256}\n".encode())
    return digest.hexdigest()


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
    def lacks(self) -> tuple[str, ...]:
        """Quarantined units that it, or what it was made from, does without: "<stage>/<unit>"."""
        return self.record.lacks

    @property
    def report(self) -> StageReport:
        """What became of all utterances."""
        return self.record.report

    @cached_property
    def table(self) -> UnitTable:
        """The records of its units.

        Raises:
            DamagedFile: The list of units is missing, or differs from its record.
            UserError: It has another form.
        """
        table = UnitTable.read(require_recorded(self.folder / UNIT_LIST, self.record.files[UNIT_LIST]))
        assert table is not None, "its hash is right, so it is JSON"
        return table

    @property
    def units(self) -> list[str]:
        """Names of the units that readers see, in the order of the stage."""
        return [unit for at, unit in enumerate(self.table.names) if at not in self.table.hidden]

    def unit_files(self, suffix: str, *, here: bool = False) -> list[UnitFile]:
        """Return every unit's file with this suffix, in the order in which the stage gave its units.

        Of a workspace in a store, tables are fetched here. Other files are fetched, and compared with their hash, on
        the machine that reads them (`flowse.fetching`), when it does; with `here`, now.

        Raises:
            DamagedFile: A file differs from its record; as in `file` and `tree`, it is hashed once a process.
        """
        folder = units_of(self.folder)
        if mirror := mirror_of(folder):
            if not suffix.endswith(_TABLE) and not here:
                for unit, facts in self.table.files(suffix):
                    mirror.know(folder / f"{unit}{suffix}", facts.sha256)
                return [
                    UnitFile(folder / f"{unit}{suffix}", label_of(unit), facts.sha256, unit)
                    for unit, facts in self.table.files(suffix)
                ]
            mirror.bring(folder, ((f"{unit}{suffix}", facts) for unit, facts in self.table.files(suffix)))
        return [
            UnitFile(require_recorded(folder / f"{unit}{suffix}", facts), label_of(unit), facts.sha256, unit)
            for unit, facts in self.table.files(suffix)
        ]

    def parts(self, suffix: str, *, here: bool = False) -> list[Path]:
        """Return the paths of `unit_files`."""
        return [file.path for file in self.unit_files(suffix, here=here)]

    @cached_property
    def _unit_facts(self) -> dict[str, FileFacts]:
        """The facts of the units' files, by their path from the output's folder."""
        return {f"../{UNITS}/{name}": self.table.facts(at) for at, name in enumerate(self.table.file_names())}

    def file(self, name: str) -> Path:
        """Return a stage-level file, or a unit's file by its path from the folder, e.g. "../units/train-0.tar".

        Raises:
            UserError: The stage has no such file, or the file is damaged.
        """
        facts = self._unit_facts.get(name) if name.startswith("../") else self.record.files.get(name)
        if facts is None:
            raise UserError(
                f"{self.folder}: the stage's record names no file {name!r}; run the stage again with --force"
            )
        if name.startswith("../") and not name.endswith(_TABLE) and mirror_of(self.folder):
            return self.path(name)
        return require_recorded(self.path(name), facts)

    def path(self, name: str) -> Path:
        """Return the path of a file by its path from the folder, without the detour of "../units/"."""
        inside = name.removeprefix(f"../{UNITS}/")
        return self.folder / name if inside == name else units_of(self.folder) / inside

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
            self.file(known)
        return self.folder / name

    def damaged(self) -> list[str]:
        """Name the files that are missing, and stage-level files that have another size than recorded.

        One listing tells which units' files are there; `verify` looks into them.
        """
        mirror = mirror_of(self.folder)
        wrong = [
            name
            for name, facts in self.record.files.items()
            if not _has_size(self.folder / name, facts) and not (mirror and mirror.holds(self.folder / name, facts))
        ]
        if UNIT_LIST in wrong:
            return wrong
        try:
            self.table  # noqa: B018 - read here for the first time
        except DamagedFile:
            return [*wrong, UNIT_LIST]
        there = DoneUnits(units_of(self.folder)).names
        wrong += [f"../{UNITS}/{name}" for name in self.table.file_names() if name not in there]
        return wrong + [f"../{UNITS}/{unit}.json" for unit in self.table.names if f"{unit}.json" not in there]

    def verify(self) -> list[str]:
        """Hash every file against its record; return one line for each that is wrong, missing or surplus."""
        wrong = [f"{self.path(name)}: {fault}" for name, fault in self._faults()]
        expected = {*self.record.files, STAGE_RECORD, IDENTITY_RECORD}
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

    def bring_own(self) -> None:
        """Copy the files of the stage itself here that are not here yet; of a workspace in a folder all are."""
        if mirror := mirror_of(self.folder):
            for name, facts in self.record.files.items():
                if not _has_size(self.folder / name, facts):
                    mirror.fetch(self.folder / name, facts)

    def bring(self) -> None:
        """Copy all of its files here that are not here yet."""
        self.bring_own()
        if mirror := mirror_of(self.folder):
            files = self.table.file_names()
            mirror.bring(units_of(self.folder), ((name, self.table.facts(at)) for at, name in enumerate(files)))

    def _faults(self) -> Iterator[tuple[str, str]]:
        """Hash every file; yield path from the folder, and what is wrong, of each that is wrong."""
        self.bring_own()
        for name, facts in sorted(self.record.files.items()):
            if fault := facts.fault_of(self.folder / name):
                yield name, fault
                if name == UNIT_LIST:
                    return  # nothing says which units there are
        folder = units_of(self.folder)
        self.bring()
        for at, name in enumerate(self.table.file_names()):
            if fault := self.table.facts(at).fault_of(folder / name):
                yield f"../{UNITS}/{name}", fault

    def forget_damaged(self) -> list[str]:
        """Delete the records of units with a wrong file, and of the stage; return the units' names.

        A wrong file that belongs to no unit only undoes the stage's record: it is then written again from the units.
        """
        wrong = {name for name, _ in self._faults()}
        if not wrong:
            return []
        (self.folder / STAGE_RECORD).unlink()
        if mirror := mirror_of(self.folder):
            mirror.publish(self.folder.parent.name)
        if UNIT_LIST in wrong:
            return ["stage files"]
        units = [
            unit for unit, names in self.table.names_by_unit() if any(f"../{UNITS}/{name}" in wrong for name in names)
        ]
        forget_units(units_of(self.folder), units)
        return units or ["stage files"]


def open_stage(folder: Path) -> StageFolder | None:
    """Return the finished stage in a folder; None if it was never committed.

    Raises:
        UserError: Its record has another form; see `record_of`.
    """
    record = read_record(StageRecord, folder / STAGE_RECORD)
    return None if record is None else StageFolder(folder, record)


def planned_units(folder: Path) -> tuple[list[str], frozenset[str]]:
    """Return which units a begun output will consist of, as far as that is known, and which of them are hidden."""
    content = read_json(folder / PLANNED_UNITS)
    if not isinstance(content, dict):
        return [], frozenset()
    units, hidden = ([name for name in content.get(key, ()) if isinstance(name, str)] for key in ("units", "hidden"))
    return units, frozenset(hidden)


def write_planned(folder: Path, units: Sequence[str], hidden: Collection[str]) -> None:
    """Say which units an output will consist of: `gc` keeps those that are done, and `lineage` finds them."""
    write_json(folder / PLANNED_UNITS, {"units": list(units), "hidden": sorted(hidden)})
    if mirror := mirror_of(folder):
        mirror.publish(folder.parent.name)


def begun_units(folder: Path, *, hidden: bool = False) -> dict[str, UnitRecord]:
    """Return the records of the units that a begun output has so far, in the order of the stage.

    Raises:
        UserError: A record has another form; see `record_of`.
    """
    names, unseen = planned_units(folder)
    return DoneUnits(units_of(folder)).records(name for name in names if hidden or name not in unseen)


def rejects_of(folder: Path) -> list[Path]:
    """Return the files of a stage's reject rows: one for the whole stage, or those of the units that are done."""
    whole = folder / _STAGE_REJECTS
    if whole.exists():
        return [whole]
    units, hidden = planned_units(folder)
    there = DoneUnits(units_of(folder))
    names = {f"{unit}{REJECTS_SUFFIX}": unit for unit in units if unit in there and unit not in hidden}
    found = {name: unit for name, unit in names.items() if name in there.names}
    if found and (mirror := mirror_of(folder)):
        records = there.records(found.values())
        mirror.bring(
            there.folder, ((name, records[unit].files[name]) for name, unit in found.items() if unit in records)
        )
    return [there.folder / name for name in found]


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
        files = {f"{unit}{suffix}": record.files for unit, record in begun_units(self.folder).items()}
        return [
            require_recorded(units_of(self.folder) / name, facts[name])
            for name, facts in files.items()
            if name in facts
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

    Outputs of earlier versions, whose units lie elsewhere, are left out.

    Raises:
        UserError: A record has another form; see `record_of`.
    """
    found = []
    for stage in stages:
        for folder in output_folders(workspace, stage):
            identity = read_record(Identity, folder / IDENTITY_RECORD)
            if identity is not None and identity.layout == LAYOUT:
                found.append(Output(folder, identity))
    return found
