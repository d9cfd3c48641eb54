"""The reject report: what was turned away, by stage, corpus and reason, in utterances and hours."""

from __future__ import annotations

import argparse
import csv
import dataclasses
import io
import itertools
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from flowse import console
from flowse.data.manifest import Reject
from flowse.data.parquet import check_columns, readable, schema_of
from flowse.data.tables import neutral_cell
from flowse.files import atomic_path
from pipelines.commands.session import Session
from pipelines.engine.plan import StagePlan
from pipelines.engine.workspace import rejects_of

REPORT = Path("reports") / "rejects.parquet"
"""Where the report lies in the workspace."""

_BY = ("stage", "corpus", "kind", "reason")
_EXAMPLE_WIDTH = 70


@dataclass(frozen=True)
class RejectSum:
    """One line of the report: what a stage turned away of a corpus for one reason.

    Attributes:
        stage: Name of the stage.
        corpus: Name of the corpus.
        kind: "dropped" or "failed".
        reason: Machine-readable reason, e.g. "too_short".
        utterances: How many were turned away.
        hours: Their length together.
        example: Detail of the first one.
    """

    stage: str
    corpus: str
    kind: str
    reason: str
    utterances: int
    hours: float
    example: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the form of the answer."""
    parser.add_argument("--csv", action="store_true", help="as CSV, for programs")


def run(arguments: argparse.Namespace) -> int:
    """Print the report; as a table it is also written into the workspace, where that can be written to."""
    session = Session.of(arguments)
    report = reject_report(reject_files(session.plans))
    print(reject_csv(report) if arguments.csv else reject_table(report, session.plans))
    if not arguments.csv and os.access(session.workspace, os.W_OK):
        print(f"\nas parquet: {write_report(report, session.workspace)}")
    if not arguments.csv and (note := session.listing.note()):
        print(note)
    return 0


def reject_files(plans: Mapping[str, StagePlan]) -> list[Path]:
    """Return the reject files of all stages; where a stage is not finished, those of the units that are."""
    folders = [plan.folder for plan in plans.values() if plan.folder is not None]
    return [path for folder in folders for path in rejects_of(folder)]


def reject_report(files: Sequence[Path]) -> list[RejectSum]:
    """Sum up reject rows by stage, corpus, kind and reason, in order of first appearance.

    Rows are counted column by column, a batch at a time: there may be millions of them. pandas would do it in a line,
    but its import takes longer than the whole command; therefore nothing here makes pyarrow import it either, as
    `pa.array` and `to_numpy` do.

    Args:
        files: Parquet files of `flowse.data.manifest.Reject` rows.
    """
    sums: dict[tuple[str, ...], RejectSum] = {}
    for path in files:
        with readable(path), pq.ParquetFile(path, read_dictionary=list(_BY)) as file:
            check_columns(path, schema_of(Reject), pq.read_schema(path))
            for batch in file.iter_batches(columns=[*_BY, "duration_s", "detail"]):
                for line in _sums_of(batch):
                    key = (line.stage, line.corpus, line.kind, line.reason)
                    before = sums.get(key)
                    sums[key] = line if before is None else dataclasses.replace(
                        before, utterances=before.utterances + line.utterances, hours=before.hours + line.hours
                    )  # fmt: skip
    return list(sums.values())


def _sums_of(batch: pa.RecordBatch) -> Iterator[RejectSum]:
    """Sum up the rows of a batch whose key columns are dictionaries."""
    if not batch.num_rows:
        return
    codes = np.zeros(batch.num_rows, np.int64)
    for name in _BY:
        codes = codes * (len(batch[name].dictionary) + 1) + _numbers(batch[name].indices, np.int32)
    _, first, groups = np.unique(codes, return_index=True, return_inverse=True)
    counts = np.bincount(groups)
    seconds = np.bincount(groups, weights=_numbers(batch["duration_s"], np.float64))
    for group in np.argsort(first):
        row = int(first[group])
        stage, corpus, kind, reason, example = (batch[name][row].as_py() for name in (*_BY, "detail"))
        yield RejectSum(stage, corpus, kind, reason, int(counts[group]), float(seconds[group]) / 3600, example)


def _numbers(column: pa.Array, kind: type[np.generic]) -> np.ndarray[Any, Any]:
    """Return the values of a column of numbers without nulls, as numpy sees its buffer."""
    return np.frombuffer(column.buffers()[1], kind)[column.offset : column.offset + len(column)]


def write_report(report: Sequence[RejectSum], workspace: Path) -> Path:
    """Write the report into the workspace; return the file."""
    schema = schema_of(RejectSum)
    columns = [_column([getattr(line, name) for line in report], schema.field(name).type) for name in schema.names]
    path = workspace / REPORT
    with atomic_path(path) as temporary:
        pq.write_table(pa.Table.from_arrays(columns, schema=schema), temporary)
    return path


def _column(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    """Build an Arrow column of texts or 64-bit numbers from buffers."""
    if kind == pa.string():
        texts = [text.encode() for text in values]
        offsets = np.array([0, *itertools.accumulate(len(text) for text in texts)], np.int32)
        return pa.StringArray.from_buffers(len(texts), pa.py_buffer(offsets), pa.py_buffer(b"".join(texts)))
    numbers = np.array(values, np.int64 if kind == pa.int64() else np.float64)
    return pa.Array.from_buffers(kind, len(numbers), [None, pa.py_buffer(numbers)])


def reject_csv(report: Sequence[RejectSum]) -> str:
    """Write the report as CSV, with a line of heads; no spreadsheet takes a cell for a formula."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(field.name for field in dataclasses.fields(RejectSum))
    writer.writerows(map(neutral_cell, dataclasses.astuple(line)) for line in report)
    return text.getvalue()


def reject_table(report: Sequence[RejectSum], plans: Mapping[str, StagePlan] | None = None) -> str:
    """Write the report for a terminal, with a line for each stage's sum.

    Args:
        report: Of `reject_report`.
        plans: Where given, each stage's sum is also shown as a share of what came in.
    """
    if not report:
        return "nothing was rejected"
    rows: list[tuple[str, ...]] = []
    for stage in dict.fromkeys(line.stage for line in report):
        lines = [line for line in report if line.stage == stage]
        rows += [_row(line, "") for line in lines]
        count, hours = sum(line.utterances for line in lines), math.fsum(line.hours for line in lines)
        rows.append(_row(RejectSum(stage, "all", "", "", count, hours, ""), _share(stage, count, plans)))
    heads = ("stage", "corpus", "kind", "reason", "utterances", "hours", "of those in", "example")
    return console.table(heads, rows, right=(4, 5, 6))


def _row(line: RejectSum, share: str) -> tuple[str, ...]:
    example = line.example if len(line.example) <= _EXAMPLE_WIDTH else f"{line.example[: _EXAMPLE_WIDTH - 1]}…"
    numbers = (f"{line.utterances:,}", f"{line.hours:,.4f}")
    return (line.stage, line.corpus, line.kind, line.reason, *numbers, share, example)


def _share(stage: str, count: int, plans: Mapping[str, StagePlan] | None) -> str:
    """Return which share of what a stage took in was turned away; empty if the stage is not finished."""
    plan = plans.get(stage) if plans else None
    if plan is None or plan.finished is None:
        return ""
    taken = plan.finished.report.taken.utterances
    return f"{count / taken:.1%}" if taken else ""
