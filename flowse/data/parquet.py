"""Parquet files of flat dataclass rows, written and read with bounded memory."""

from __future__ import annotations

import dataclasses
import itertools
import types
import typing
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from flowse.data.manifest import Kind

Row = TypeVar("Row")
_GROUP_ROWS = 65_536  # so many rows are in memory at once
_ARROW = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}


def _arrow_type(annotation: Any) -> tuple[pa.DataType, bool]:
    """Return the Arrow type of a field's annotation, and whether the column may be null."""
    origin = typing.get_origin(annotation)
    if origin in (typing.Union, types.UnionType):
        inner = [part for part in typing.get_args(annotation) if part is not type(None)]
        arrow, _ = _arrow_type(inner[0])
        return arrow, True
    if origin is Literal:
        return pa.string(), False
    if origin in (tuple, list):
        return pa.list_(_arrow_type(typing.get_args(annotation)[0])[0]), False
    return _ARROW[annotation], False


def schema_of(row_type: type[Any]) -> pa.Schema:
    """Return the parquet schema of a flat dataclass, which is the only definition of the columns."""
    hints = typing.get_type_hints(row_type)
    columns = [(field.name, *_arrow_type(hints[field.name])) for field in dataclasses.fields(row_type)]
    return pa.schema([pa.field(name, arrow, nullable=nullable) for name, arrow, nullable in columns])


def write_rows(path: Path, row_type: type[Row], rows: Iterable[Row]) -> None:
    """Write dataclass rows to a parquet file with bounded memory; equal rows give equal bytes."""
    schema = schema_of(row_type)
    coming = iter(rows)
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        listed = list(itertools.islice(coming, _GROUP_ROWS))
        while True:
            columns = [
                pa.array([getattr(row, name) for row in listed], type=schema.field(name).type) for name in schema.names
            ]
            writer.write_table(pa.Table.from_arrays(columns, schema=schema))
            if not (listed := list(itertools.islice(coming, _GROUP_ROWS))):
                break


def read_rows(paths: Path | Sequence[Path], row_type: type[Row]) -> Iterator[Row]:
    """Yield the rows of parquet files one by one, in order, with bounded memory.

    Raises:
        ValueError: A file lacks a column of `row_type`; the message names the file and the column.
    """
    names = [field.name for field in dataclasses.fields(row_type)]  # type: ignore[arg-type]
    lists = {field.name for field in schema_of(row_type) if pa.types.is_list(field.type)}
    for path in [paths] if isinstance(paths, Path) else paths:
        with pq.ParquetFile(path) as file:
            missing = [name for name in names if name not in file.schema_arrow.names]
            if missing:
                raise ValueError(f"{path}: column(s) {', '.join(missing)} missing; not written by this version")
            for batch in file.iter_batches(batch_size=4096, columns=names):
                for values in batch.to_pylist():
                    for name in lists:
                        values[name] = tuple(values[name])
                    yield row_type(**values)


def durations_s(path: Path, kind: Kind | None = None) -> list[float]:
    """Read the lengths of a manifest's rows in seconds, and nothing else of them.

    Args:
        path: Parquet file of `Utterance` rows.
        kind: Only rows of this kind; None: all.
    """
    import pyarrow.compute as pc

    table = pq.read_table(path, columns=["kind", "duration_s"])
    if kind is not None:
        table = table.filter(pc.equal(table["kind"], kind))
    lengths: list[float] = table["duration_s"].to_pylist()
    return lengths
