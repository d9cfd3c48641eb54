"""A stage tried on a handful of its items: by its own `run` and `Worker`, in a temporary folder, without Ray.

What it leaves there is a small output like any other: the next stage can be tried on it.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from flowse.data.manifest import Split, Utterance
from flowse.data.parquet import read_rows, write_rows
from flowse.errors import UserError
from pipelines.engine import ledger
from pipelines.engine.accounts import StageReport, Tally, UnitReport, account_unit, merge
from pipelines.engine.ledger import StageFolder, UnitFolder
from pipelines.engine.resources import Resources
from pipelines.engine.stage import Unit, Worker

_PLACES = 3  # units of a group that items are taken from: a corpus is sorted, its parts differ
_FIRST = 8  # items of a unit; doubled until they take long enough
_MOST = 64
_LONG_ENOUGH_S = 1.0
_SLOW_S = 5.0  # where the first item takes so long, models loaded with it, one more must do


@dataclass
class Miniature:
    """What a tried stage left, as its readers see it; see `pipelines.engine.stage.StageOutput`.

    Attributes:
        folder: Temporary.
        units: Names of those that were tried.
        scale: How many times more speech the real output holds, at most.
        digest: None: no fingerprint is made from it.
    """

    folder: Path
    units: list[str] = field(default_factory=list)
    scale: float = 1.0
    digest: str = ""

    def parts(self, suffix: str) -> list[Path]:
        """Return the tried units' files with this suffix."""
        return [path for unit in sorted(self.units) if (path := self.folder / f"{unit}{suffix}").exists()]

    def file(self, name: str) -> Path:
        """Return a stage-level file.

        Raises:
            UserError: The stage wrote none of that name.
        """
        path = self.folder / name
        if not path.exists():
            raise UserError(f"the tried stage wrote no {name}")
        return path


@dataclass(frozen=True)
class Measured:
    """One group of units (a corpus, a split), some items of one of which were worked on.

    Attributes:
        total: All that the group holds; 0 s where only the work tells lengths.
        tried: What was worked on.
        seconds: How long that took.
        bytes: What it wrote.
        units: Number of units in the group.
    """

    total: Tally
    tried: Tally
    seconds: float
    bytes: int
    units: int

    @property
    def factor(self) -> float:
        """How many times more there is than was tried."""
        if self.total.seconds and self.tried.seconds:
            return self.total.seconds / self.tried.seconds
        return self.total.utterances / max(1, self.tried.utterances)

    @property
    def seconds_in(self) -> float:
        """Length of all that the group holds, estimated where it is not known."""
        return self.total.seconds or self.tried.seconds * self.factor


class _Silent:
    """A tracker that logs nothing."""

    run_id: str | None = None
    uri = ""

    def params(self, values: Mapping[str, Any]) -> None:
        """Log nothing."""

    def metrics(self, values: Mapping[str, float], step: int | None = None) -> None:
        """Log nothing."""

    def tags(self, values: Mapping[str, str]) -> None:
        """Log nothing."""

    def artifact(self, path: Path, folder: str | None = None) -> None:
        """Log nothing."""


class Trial:
    """A stage context that works on a few items and measures; see `pipelines.engine.stage.StageContext`."""

    def __init__(
        self, *, folder: Path, seed: int, inputs: Mapping[str, StageFolder | Miniature], roots: Mapping[str, Path],
        resources: Resources,
    ) -> None:  # fmt: skip
        folder.mkdir(parents=True)
        self.folder, self.seed, self.inputs, self.roots, self.resources = folder, seed, inputs, roots, resources
        self.storage = folder / ".state"
        self.tracker = _Silent()
        self.measured: list[Measured] = []
        self.output = Miniature(folder)

    @contextmanager
    def write(self, name: str) -> Iterator[Path]:
        """Give a path in the temporary folder."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        yield path

    def say(self, line: str) -> None:
        """Say nothing: nobody asked the stage to run."""

    def map_units(
        self, worker: Callable[..., Worker[Any]], arguments: Sequence[Any], units: Sequence[Unit[Any]], **options: Any
    ) -> StageReport:
        """Work on some items of one unit of every group; the other units are reported as quarantined."""
        groups: dict[str, list[Unit[Any]]] = {}
        for unit in units:
            groups.setdefault(unit.name.rpartition("-")[0], []).append(unit)
        working = worker(*arguments)
        first = self._warm_up(working, units[0])
        reports = []
        for group in groups.values():
            for place in range(min(_PLACES, len(group))):
                places = min(_PLACES, len(group))
                share = group[place * len(group) // places : (place + 1) * len(group) // places]
                unit = share[len(share) // 2]
                total = sum((one.taken for one in share), Tally())
                reports.append(self._try(working, unit, total, len(share), first))
                self.output.units.append(unit.name)
        left = tuple(unit.name for unit in units if unit.name not in self.output.units)
        return dataclasses.replace(merge(reports), quarantined=left)

    def _warm_up(self, working: Worker[Any], unit: Unit[Any]) -> int:
        """Let a worker load its models with one item; return with how many to begin."""
        self.storage.mkdir(exist_ok=True)
        discarded = UnitFolder(self.folder, unit.name)
        begun = time.perf_counter()
        working(shorten(unit.payload, 1, self.storage), discarded)
        discarded.discard()
        return 1 if time.perf_counter() - begun > _SLOW_S else _FIRST

    def _try(self, working: Worker[Any], unit: Unit[Any], total: Tally, units: int, count: int) -> StageReport:
        """Work on more and more of a unit until it takes long enough to be measured."""
        while True:
            output = UnitFolder(self.folder, unit.name)
            payload = shorten(unit.payload, count, self.storage)
            begun = time.perf_counter()
            report = working(payload, output)
            seconds = time.perf_counter() - begun
            tried = account_unit(_accounted(report), report).taken
            whole = tried.utterances >= unit.taken.utterances or tried.utterances < count
            if whole or seconds > _LONG_ENOUGH_S or count >= _MOST:
                break
            output.discard()
            count *= 2
        account = output.commit(tried, report)
        record = ledger.done_unit(self.folder, unit.name)
        written = sum(facts["bytes"] for facts in record["files"].values()) if record else 0
        self.measured.append(Measured(total, tried, seconds, written, units))
        return account


def _accounted(report: UnitReport) -> Tally:
    """What a unit's report accounts for; the whole unit's tally would not fit a part of it."""
    rejected = Tally.of(reject.duration_s for reject in report.rejects)
    return report.taken or report.kept + rejected


def shorten(payload: Any, count: int, folder: Path) -> Any:
    """Return a unit's payload with `count` of its items, evenly spread; as it is where its form is not known.

    Args:
        payload: A parquet file's path, a sequence of items, or a dataclass that holds either.
        count: At most this many.
        folder: For shortened copies of files.
    """
    if isinstance(payload, str | Path):
        return type(payload)(_rows_of(Path(payload), count, folder))
    if isinstance(payload, tuple | list):
        return type(payload)(_spread(payload, count))
    if not dataclasses.is_dataclass(payload) or isinstance(payload, type):
        return payload
    values = {one.name: getattr(payload, one.name) for one in dataclasses.fields(payload)}
    sequences = [name for name, value in values.items() if isinstance(value, tuple | list)]
    if isinstance(values.get("path"), Path):
        # Sequences beside a file say which of its rows are special: they count other rows now.
        changes = dict.fromkeys(sequences, ()) | {"path": _rows_of(values["path"], count, folder)}
        return dataclasses.replace(payload, **changes)
    return dataclasses.replace(payload, **{name: _spread(values[name], count) for name in sequences})


def _spread(items: Sequence[Any], count: int) -> tuple[Any, ...]:
    if len(items) <= count:
        return tuple(items)
    return tuple(items[index * len(items) // count] for index in range(count))


def _rows_of(path: Path, count: int, folder: Path) -> Path:
    table = pq.read_table(path)
    chosen = _spread(range(table.num_rows), count)
    short = folder / f"{path.stem}-{count}.parquet"
    pq.write_table(table.take(pa.array(chosen, pa.int64())), short)
    return short


def share_splits(parts: Sequence[Path]) -> None:
    """Give a tried manifest all three splits where it has speakers enough: chance may have left one out."""
    for kind in ("speech", "noise"):
        rows = {path: list(read_rows(path, Utterance)) for path in parts}
        who = sorted({_who(row) for listed in rows.values() for row in listed if row.kind == kind})
        given: dict[str, Split] = {who[0]: "dev", who[1]: "test"} if len(who) > 2 else {}
        for path, listed in rows.items():
            changed = [
                dataclasses.replace(row, split=given.get(_who(row), "train")) if row.kind == kind else row
                for row in listed
            ]
            write_rows(path, Utterance, changed)


def _who(row: Utterance) -> str:
    return f"{row.corpus}/{row.speaker or row.path}"
