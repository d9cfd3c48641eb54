"""Records of many units in one file, column by column: 200,000 of them are read in less than a second."""

from __future__ import annotations

import itertools
import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from flowse.errors import UserError
from pipelines.engine.accounts import StageReport, Tally
from pipelines.engine.records import FileFacts, UnitRecord, read_json

_HASH = 64  # digits of a SHA-256
_KEYS = {"units", "hidden", "counts", "suffixes", "suffix", "bytes", "sha256", "taken", "kept", "dropped", "failed",
         "metrics"}  # fmt: skip


@dataclass(frozen=True)
class UnitTable:
    """Records of units, in an order that means something.

    Attributes:
        columns: The JSON object of the file: "units" (names), "hidden" (positions of hidden units), "counts" (number of
            files of each unit), "suffixes", then a column a property of all files, one unit after the other: "suffix"
            (position in "suffixes"), "bytes", "sha256" (all hashes, joined to one text); then the accounts: "taken" and
            "kept" (utterances and seconds), "dropped" and "failed" (by the position of the unit, then by reason) and
            "metrics".
    """

    columns: Mapping[str, Any]

    @classmethod
    def of(cls, records: Sequence[UnitRecord], hidden: Collection[str] = ()) -> UnitTable:
        """Collect records; units whose names are in `hidden` are marked."""
        codes: dict[str, int] = {}
        files = [sorted(record.files.items()) for record in records]
        facts = [
            (record.unit, name, fact) for record, listed in zip(records, files, strict=True) for name, fact in listed
        ]
        reports = [record.report for record in records]
        return cls({
            "units": [record.unit for record in records],
            "hidden": [at for at, record in enumerate(records) if record.unit in hidden] if hidden else [],
            "counts": [len(listed) for listed in files],
            "suffix": [codes.setdefault(name[len(unit) :], len(codes)) for unit, name, _ in facts],
            "suffixes": list(codes),
            "bytes": [fact.bytes for _, _, fact in facts],
            "sha256": "".join(fact.sha256 for _, _, fact in facts),
            "taken": _tallies(report.taken for report in reports),
            "kept": _tallies(report.kept for report in reports),
            "dropped": {str(at): _reasons(report.dropped) for at, report in enumerate(reports) if report.dropped},
            "failed": {str(at): _reasons(report.failed) for at, report in enumerate(reports) if report.failed},
            "metrics": [dict(report.metrics) for report in reports],
        })  # fmt: skip

    @classmethod
    def read(cls, path: Path) -> UnitTable | None:
        """Read a table; None if the file is absent or no JSON.

        Raises:
            UserError: The file has another form.
        """
        content = read_json(path)
        if content is None:
            return None
        table = cls(content if isinstance(content, dict) else {})
        if fault := table._fault():
            raise UserError(
                f"{path}: not a list of units that this version reads: {fault}; delete the file: the list is made "
                "again from the records of the units"
            )
        return table

    def _fault(self) -> str:
        """Say what is wrong with the columns; empty: nothing."""
        columns = self.columns
        if columns.keys() != _KEYS:
            return f"its keys are {', '.join(sorted(columns))[:80]}"
        names, counts, number = columns["units"], columns["counts"], len(columns["bytes"])
        for key in ("units", "counts", "metrics"):
            if not isinstance(columns[key], list) or len(columns[key]) != len(names):
                return f"{key} has another length than units"
        for key in ("taken", "kept"):
            if [len(column) for column in columns[key]] != [len(names)] * 2:
                return f"{key} has another length than units"
        if not all(isinstance(name, str) and _is_plain(name) for name in names):
            return "a name leads out of the folder"
        if not all(isinstance(suffix, str) and _is_plain(f"x{suffix}") for suffix in columns["suffixes"]):
            return "a suffix leads out of the folder"
        whole = (*counts, *columns["suffix"], *columns["bytes"], *columns["hidden"])
        if not all(type(value) is int and value >= 0 for value in whole):
            return "a number is not a whole one"
        if sum(counts) != number or len(columns["suffix"]) != number or len(columns["sha256"]) != _HASH * number:
            return "its columns of files differ in length"
        if max(columns["suffix"], default=-1) >= len(columns["suffixes"]) or max(columns["hidden"], default=-1) >= len(
            names
        ):
            return "a position is beyond its list"
        return ""

    def to_text(self) -> str:
        """Write the table, a column a line."""
        lines = (f"{json.dumps(key)}: {json.dumps(self.columns[key])}" for key in sorted(self.columns))
        return "{\n" + ",\n".join(lines) + "\n}\n"

    def __len__(self) -> int:
        return len(self.names)

    @property
    def names(self) -> list[str]:
        """Names of all units, hidden ones as well."""
        names: list[str] = self.columns["units"]
        return names

    @cached_property
    def hidden(self) -> frozenset[int]:
        """Positions of the hidden units."""
        return frozenset(self.columns["hidden"])

    @cached_property
    def _begins(self) -> list[int]:
        """Position of each unit's first file."""
        return [0, *itertools.accumulate(self.columns["counts"])]

    def file_names(self) -> list[str]:
        """Return the names of all files, in the order of the units."""
        suffixes = self.columns["suffixes"]
        units = itertools.chain.from_iterable(map(itertools.repeat, self.names, self.columns["counts"]))
        return [unit + suffixes[code] for unit, code in zip(units, self.columns["suffix"], strict=True)]

    def names_by_unit(self) -> Iterator[tuple[str, list[str]]]:
        """Yield each unit with the names of its files."""
        names = self.file_names()
        for unit, begin, end in zip(self.names, self._begins, self._begins[1:], strict=False):
            yield unit, names[begin:end]

    def facts(self, file: int) -> FileFacts:
        """Return size and hash of the file at a position of `file_names`."""
        return FileFacts(self.columns["bytes"][file], self.columns["sha256"][file * _HASH : (file + 1) * _HASH])

    def files(self, suffix: str, hidden: bool = False) -> Iterator[tuple[str, FileFacts]]:
        """Yield name and facts of the files with this suffix, as (unit, facts), of visible or of hidden units."""
        if suffix not in self.columns["suffixes"]:
            return
        wanted, codes, begins = self.columns["suffixes"].index(suffix), self.columns["suffix"], self._begins
        for at, unit in enumerate(self.names):
            if (at in self.hidden) == hidden:
                for file in range(begins[at], begins[at + 1]):
                    if codes[file] == wanted:
                        yield unit, self.facts(file)

    def record(self, at: int) -> UnitRecord:
        """Return the record of the unit at a position."""
        columns, unit = self.columns, self.names[at]
        report = StageReport(
            taken=Tally(columns["taken"][0][at], columns["taken"][1][at]),
            kept=Tally(columns["kept"][0][at], columns["kept"][1][at]),
            dropped=_by_reason(columns["dropped"].get(str(at))),
            failed=_by_reason(columns["failed"].get(str(at))),
            metrics=columns["metrics"][at],
        )
        suffixes, codes = columns["suffixes"], columns["suffix"]
        files = {
            unit + suffixes[codes[file]]: self.facts(file) for file in range(self._begins[at], self._begins[at + 1])
        }
        return UnitRecord(unit, files, report)


def _is_plain(name: str) -> bool:
    """Whether a name is that of a file in the folder itself; quicker than `flowse.names.why_unsafe`."""
    return (
        name.isprintable() and not name.startswith(".") and "/" not in name and "\\" not in name and 0 < len(name) < 256
    )


def _tallies(tallies: Iterable[Tally]) -> list[list[float]]:
    listed = list(tallies)
    return [[tally.utterances for tally in listed], [tally.seconds for tally in listed]]


def _reasons(sums: Mapping[str, Tally]) -> dict[str, list[float]]:
    return {reason: [tally.utterances, tally.seconds] for reason, tally in sums.items()}


def _by_reason(stored: Mapping[str, Sequence[Any]] | None) -> dict[str, Tally]:
    return {reason: Tally(*values) for reason, values in stored.items()} if stored else {}
