"""The units of a stage, shared by all of its outputs: their files, and the records of those that are done.

    <workspace>/<stage>/units/<name><suffix>    the files of a unit; its name holds its key, a hash of all it is made of
    <workspace>/<stage>/units/<name>.json       a `UnitRecord`, written last: from now on the unit is done
    <workspace>/<stage>/pages/<number>.json     copies of a thousand records each (`UnitTable`), read instead of them

What is done is decided by one listing of the folder. A page may name units that are gone again; it is only asked for
the content of records that the listing shows.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import NoReturn

from flowse.data.manifest import Reject
from flowse.errors import UserError
from flowse.files import move_into_place, temporary_beside, write_bytes, write_text
from pipelines.engine.accounts import Tally, UnitReport, account_unit
from pipelines.engine.fingerprint import KEY_DIGITS
from pipelines.engine.mirror import mirror_of
from pipelines.engine.progress import Count
from pipelines.engine.records import REJECTS_SUFFIX, FileFacts, UnitRecord, read_json, record_of, write_record
from pipelines.engine.unit_table import UnitTable

UNITS, PAGES = "units", "pages"
PAGE_UNITS = 1000
_RECORD = ".json"


def label_of(unit: str) -> str:
    """Return the label in a unit's name."""
    label, dash, key = unit.rpartition("-")
    return label if dash and len(key) == KEY_DIGITS else unit


class UnitFolder:
    """Where a worker writes one unit's files; keeps `pipelines.engine.stage.UnitOutput`."""

    def __init__(self, folder: Path, unit: str, counted: Callable[[str, Count], None] | None = None) -> None:
        """Prepare for a unit; nothing is written yet.

        Args:
            folder: Of the stage's units.
            unit: Name of the unit.
            counted: Told how much of the unit is done.
        """
        self._counted = counted
        self._count: Count = (0.0, 0.0)
        self._folder = folder
        self._unit = unit
        self._written: dict[str, Path] = {}

    @property
    def name(self) -> str:
        """Name of the unit."""
        return self._unit

    def count(self, seconds: float, share: float = 1.0) -> None:
        """Say that one more utterance is done, or a share of it; see `UnitOutput.count`."""
        self._count = (self._count[0] + share, self._count[1] + share * seconds)
        if self._counted is not None:
            self._counted(self._unit, self._count)

    def path(self, suffix: str) -> Path:
        """Return a temporary path for the unit's file with this suffix.

        Raises:
            ValueError: The suffix is that of the unit's record.
        """
        if suffix == _RECORD:
            raise ValueError("the suffix .json belongs to the unit's record")
        return self._written.setdefault(suffix, temporary_beside(self._folder / f"{self._unit}{suffix}"))

    def commit(self, taken: Tally, report: UnitReport) -> UnitRecord:
        """Give the files their names, then write the unit's record; return it.

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
        record = UnitRecord(self._unit, files, account)
        write_record(self._folder / f"{self._unit}{_RECORD}", record)
        if mirror := mirror_of(self._folder):
            faster = mirror.commit(self._folder, files, f"{self._unit}{_RECORD}")
            if faster is not None:  # a worker that was taken for dead has done the unit: its files are as good
                write_bytes(path := self._folder / f"{self._unit}{_RECORD}", faster)
                record = read_unit(self._folder, self._unit) or _damaged(path)
                for name in files:
                    if record.files.get(name) != files[name]:
                        (self._folder / name).unlink()
        return record

    def discard(self) -> None:
        """Remove what was written and not committed."""
        for temporary in self._written.values():
            temporary.unlink(missing_ok=True)


def _damaged(path: Path) -> NoReturn:
    raise UserError(f"{path}: the store's record of this unit is damaged; delete it there, and the unit is done again")


def list_names(folder: Path) -> list[str]:
    """List a folder with one call; a folder that is not there is empty."""
    try:
        return os.listdir(folder)  # noqa: PTH208 - a Path for each of 600,000 names takes seconds
    except (FileNotFoundError, NotADirectoryError):
        return []


class DoneUnits:
    """Which units of a stage are done, by one listing of their folder.

    Attributes:
        folder: Of the units.
        names: All names in it, those of temporary files as well.
        unpaged: Records that `records` found in no page: a driver died before it wrote one.
    """

    def __init__(self, folder: Path) -> None:
        """List the folder."""
        self.folder = folder
        self._mirror = mirror_of(folder)
        self.names = frozenset(self._mirror.unit_names(folder) if self._mirror else list_names(folder))
        self.unpaged: list[UnitRecord] = []

    def __contains__(self, unit: str) -> bool:
        """Whether the record of a unit is there; its files may be lost, see `records`."""
        return f"{unit}{_RECORD}" in self.names

    def units(self) -> list[str]:
        """Return the names of all units that have a record, sorted."""
        return sorted(
            name.removesuffix(_RECORD) for name in self.names if name.endswith(_RECORD) and not name.startswith(".")
        )

    def records(self, wanted: Iterable[str] | None = None) -> dict[str, UnitRecord]:
        """Return the records of the units that are done: the record is there, and so are all files that it names.

        Args:
            wanted: Names of units, without repetition; None: all units of the folder.

        Raises:
            UserError: A record has another form; see `record_of`.
        """
        names = [unit for unit in (self.units() if wanted is None else wanted) if unit in self]
        paged = read_pages(self.folder, set(names)) if names else {}
        if self._mirror:
            self._mirror.read_records(self.folder, [f"{unit}{_RECORD}" for unit in names if unit not in paged])
        found = {}
        self.unpaged = []
        for unit in names:
            record = paged.get(unit) or read_unit(self.folder, unit)
            if record is not None and all(name in self.names for name in record.files):
                found[unit] = record
                if unit not in paged:
                    self.unpaged.append(record)
        return found

    def remove_temporaries(self) -> None:
        """Delete what killed processes left; only where no other process is writing."""
        for name in self.names if self._mirror is None else list_names(self.folder):
            if name.startswith(".") and ".tmp" in name:
                (self.folder / name).unlink(missing_ok=True)


def read_unit(folder: Path, unit: str) -> UnitRecord | None:
    """Read a unit's own record; None if it is absent, cut or of another unit.

    Raises:
        UserError: The record has another form; see `record_of`.
    """
    path = folder / f"{unit}{_RECORD}"
    content = read_json(path)
    if not isinstance(content, dict) or content.get("unit") != unit:
        return None
    return record_of(UnitRecord, content, path)


def done_units(folder: Path) -> dict[str, UnitRecord]:
    """Return the records of all units of a folder that are done, in order of name.

    Raises:
        UserError: A record has another form; see `record_of`.
    """
    return DoneUnits(folder).records()


def _pages(units: Path) -> list[Path]:
    """Return the pages of records beside a folder of units, the oldest first."""
    folder = units.parent / PAGES
    names = (name for name in list_names(folder) if name.endswith(_RECORD) and name[: -len(_RECORD)].isdigit())
    return [folder / name for name in sorted(names, key=lambda name: int(name[: -len(_RECORD)]))]


def read_pages(units: Path, wanted: Collection[str]) -> dict[str, UnitRecord]:
    """Return the wanted records that stand in pages; a younger page is right."""
    found = {}
    for path in _pages(units):
        table = UnitTable.read(path)
        if table is not None:
            for at, unit in enumerate(table.names):
                if unit in wanted:
                    found[unit] = table.record(at)
    return found


def write_page(units: Path, records: Sequence[UnitRecord]) -> None:
    """Copy records to a page; a youngest page that is not full is filled up.

    Args:
        units: Folder of the units.
        records: Of units that are done, at most a page full.
    """
    if not records:
        return
    pages = _pages(units)
    last = UnitTable.read(pages[-1]) if pages else None
    number = int(pages[-1].stem) if pages else 0
    together = {record.unit: record for record in records}
    if last is not None and len(last) + len(records) <= PAGE_UNITS:
        together = {unit: last.record(at) for at, unit in enumerate(last.names)} | together
    else:
        number += 1
    path = units.parent / PAGES / f"{number:06d}{_RECORD}"
    write_text(path, UnitTable.of(list(together.values())).to_text())
    if mirror := mirror_of(units):
        mirror.publish(units.parent.name)


def forget_units(folder: Path, names: Collection[str]) -> None:
    """Delete the records of units, in pages and by themselves, so that the units are made anew.

    A page that still held a forgotten record would describe the files of the unit that is made in its place.
    """
    wanted = set(names)
    for path in _pages(folder):
        table = UnitTable.read(path)
        if table is None or wanted.isdisjoint(table.names):
            continue
        left = [table.record(at) for at, unit in enumerate(table.names) if unit not in wanted]
        write_text(path, UnitTable.of(left).to_text())
    if names and (mirror := mirror_of(folder)):
        mirror.publish(folder.parent.name)
        mirror.delete_records(folder, [f"{name}{_RECORD}" for name in names])
    for name in names:
        (folder / f"{name}{_RECORD}").unlink(missing_ok=True)
