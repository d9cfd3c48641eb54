"""A stage tried on a handful of its items: by its own `run` and `Worker`, in a temporary folder, without Ray.

What it leaves there is a small output like any other: the next stage can be tried on it.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from flowse.data.manifest import Split, Utterance
from flowse.data.parquet import read_columns, read_rows, write_rows
from pipelines.engine.accounts import StageReport, Tally, UnitReport, account_unit, merge
from pipelines.engine.context import Context, UnrecordedOutput
from pipelines.engine.local_units import torch_threads_restored
from pipelines.engine.records import UnitRecord
from pipelines.engine.resources import Resources
from pipelines.engine.stage import Arguments, Payload, StageOutput, Unit, Worker
from pipelines.engine.unit_queue import UnitHost
from pipelines.engine.units import UnitFolder

_PLACES = 3  # units of a group that are tried: a corpus is sorted, and its parts differ
_FIRST = 8  # items of a unit; doubled until they take long enough
_MOST = 64
_LONG_ENOUGH_S = 1.0
_SLOW_S = 5.0  # if the first item, loading of models included, takes longer, a trial begins with one item


@dataclass(frozen=True)
class Miniature(UnrecordedOutput):
    """The small output of a trial, which the trial of a later stage reads.

    Attributes:
        scale: How many times more speech the real output holds, at most.
    """

    scale: float = 1.0


@dataclass(frozen=True)
class Measured:
    """Some items of one unit, for the group of units (of a corpus, of a split) that it stands for.

    Attributes:
        name: Label of its units.
        total: All that the group holds; 0 s if lengths are known only after decoding.
        tried: Items that were processed.
        seconds: Time that their processing took.
        bytes: Bytes that it wrote.
        units: Number of units in the group.
        hidden: They are intermediate results: what they hold, the stage's other units hold again.
    """

    name: str
    total: Tally
    tried: Tally
    seconds: float
    bytes: int
    units: int
    hidden: bool = False

    @property
    def factor(self) -> float:
        """Size of the group relative to the items that were tried."""
        if self.total.seconds and self.tried.seconds:
            return self.total.seconds / self.tried.seconds
        return self.total.utterances / max(1, self.tried.utterances)

    @property
    def seconds_in(self) -> float:
        """Length of all that the group holds, estimated where it is not known."""
        return self.total.seconds or self.tried.seconds * self.factor


class Trial(Context):
    """A stage context that works on a few items of a few units, in this process, and measures.

    Attributes:
        measured: What was tried of each group of units, and how long it took.
        scale: How many times more speech the real output holds, at most.
    """

    def __init__(
        self,
        folder: Path,
        *,
        name: str,
        seed: int,
        inputs: Mapping[str, StageOutput],
        roots: Mapping[str, Path],
        resources: Resources,
    ) -> None:
        super().__init__(folder, name=name, seed=seed, inputs=inputs, roots=roots, resources=resources)
        self.measured: list[Measured] = []
        self.scale = 1.0

    @property
    def output(self) -> Miniature:
        """What the stage has left so far, as its readers see it."""
        return Miniature(self.folder, self.units, scale=self.scale)

    def say(self, line: str) -> None:
        """Say nothing: nobody asked the stage to run."""

    def map_units(
        self,
        worker: Callable[[*Arguments], Worker[Payload]],
        arguments: tuple[*Arguments],
        units: Sequence[Unit[Payload]],
        *,
        hidden: bool = False,
    ) -> StageReport:
        """Work on some items of some units of every group; return the account of these alone."""
        if not units:
            return merge([])
        groups: dict[str, list[Unit[Payload]]] = {}
        for unit in self.named(units):
            groups.setdefault((hidden and unit.corpus) or unit.label, []).append(unit)
        host = UnitHost(worker, arguments, self.resources.num_cpus)
        self.storage.mkdir(exist_ok=True)
        self.units_folder.mkdir(parents=True, exist_ok=True)
        tried: list[tuple[Unit[Payload], UnitRecord]] = []
        with torch_threads_restored():
            first = self._warm_up(host, units[0])
            for group in groups.values():
                places = min(_PLACES, len(group))
                for place in range(places):
                    share = group[place * len(group) // places : (place + 1) * len(group) // places]
                    unit = share[len(share) // 2]
                    total = sum((left.taken for left in share), Tally())
                    tried.append((unit, self._try(host, unit, total, len(share), first, hidden)))
        for unit, record in tried:
            self.add(unit, record, hidden=hidden)
        return merge(record.report for _, record in tried)

    def _warm_up(self, host: UnitHost, unit: Unit[Any]) -> int:
        """Let a worker load its models with one item; return with how many items to begin."""
        discarded = UnitFolder(self.units_folder, unit.name)
        begun = time.perf_counter()
        host.work(shorten(unit.payload, 1, self.storage), discarded)
        discarded.discard()
        return 1 if time.perf_counter() - begun > _SLOW_S else _FIRST

    def _try(self, host: UnitHost, unit: Unit[Any], total: Tally, units: int, count: int, hidden: bool) -> UnitRecord:
        """Work on more and more of a unit until it takes long enough to be measured.

        Args:
            host: Holds the worker.
            unit: What is tried.
            total: All that the units hold for which this one stands.
            units: Their number.
            count: Items to begin with.
            hidden: Whether it is an intermediate result.
        """
        while True:
            output = UnitFolder(self.units_folder, unit.name)
            payload = shorten(unit.payload, count, self.storage)
            begun = time.perf_counter()
            report = host.work(payload, output)
            seconds = time.perf_counter() - begun
            tried = account_unit(_accounted(report), report).taken
            whole = tried.utterances >= unit.taken.utterances or tried.utterances < count
            if whole or seconds > _LONG_ENOUGH_S or count >= _MOST:
                break
            output.discard()
            count *= 2
        record = output.commit(tried, report)
        written = sum(facts.bytes for facts in record.files.values())
        self.measured.append(Measured(unit.label, total, tried, seconds, written, units, hidden))
        return record


def results(measured: Sequence[Measured]) -> list[Measured]:
    """Return what was measured of a stage's results, so that they stand for all that the intermediate results hold.

    Intermediate results hold the same items; where only some of them were tried, the stage went on with these alone.
    """
    seen = [group for group in measured if not group.hidden]
    before = sum((group.total for group in measured if group.hidden), Tally())
    tried = sum((group.total for group in seen), Tally())
    more = max(1.0, before.utterances / max(1, tried.utterances))
    longer = max(1.0, before.seconds / tried.seconds) if before.seconds and tried.seconds else more
    found, counted, given = [], 0, 0
    for group in seen:
        counted += group.total.utterances
        utterances = round(more * counted) - given  # so that the rounded numbers add up to all
        given += utterances
        total = Tally(utterances, longer * group.total.seconds)
        found.append(dataclasses.replace(group, total=total, units=round(more * group.units)))
    return found


def _accounted(report: UnitReport) -> Tally:
    """What a unit's report accounts for; the whole unit's tally would not fit a part of it."""
    rejected = Tally.of(reject.duration_s for reject in report.rejects)
    return report.taken or report.kept + rejected


def shorten(payload: Any, count: int, folder: Path) -> Any:
    """Return a unit's payload with `count` of its items, evenly spread; as it is where its form is not known.

    Args:
        payload: A parquet file's path, a sequence of items, or a dataclass that holds either. In a dataclass with a
            `path`, sequences and mappings of integers are positions of rows: they follow the rows that are left.
        count: At most this many.
        folder: For shortened copies of files.
    """
    if isinstance(payload, str | Path):
        return type(payload)(_rows_of(Path(payload), count, folder)[0])
    if isinstance(payload, tuple | list):
        return type(payload)(_spread(payload, count))
    if not dataclasses.is_dataclass(payload) or isinstance(payload, type):
        return payload
    values = {field.name: getattr(payload, field.name) for field in dataclasses.fields(payload)}
    if not isinstance(values.get("path"), Path):
        sequences = [name for name, value in values.items() if isinstance(value, tuple | list)]
        return dataclasses.replace(payload, **{name: _spread(values[name], count) for name in sequences})
    path, rows = _rows_of(values["path"], count, folder)
    place = {row: position for position, row in enumerate(rows)}
    changes: dict[str, Any] = {"path": path}
    for name, value in values.items():
        if isinstance(value, tuple | list):
            changes[name] = type(value)(place[row] for row in value if row in place)
        elif isinstance(value, Mapping):
            changes[name] = {place[row]: about for row, about in value.items() if row in place}
    return dataclasses.replace(payload, **changes)


def _spread(items: Sequence[Any], count: int) -> tuple[Any, ...]:
    """Choose `count` items at equal distances."""
    if len(items) <= count:
        return tuple(items)
    return tuple(items[index * len(items) // count] for index in range(count))


def _rows_of(path: Path, count: int, folder: Path) -> tuple[Path, tuple[int, ...]]:
    """Copy `count` rows of a parquet file; return the copy and which rows it holds."""
    table = read_columns(path, None)
    chosen = _spread(range(table.num_rows), count)
    short = folder / f"{path.stem}-{count}.parquet"
    pq.write_table(table.take(pa.array(chosen, pa.int64())), short)
    return short, chosen


def share_splits(parts: Sequence[Path]) -> None:
    """Give a tried manifest all three splits where it has enough speakers: a few rows may lack a split by chance."""
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
