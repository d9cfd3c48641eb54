"""Parquet files of flat dataclass rows, written and read with bounded memory."""

from __future__ import annotations

import dataclasses
import itertools
import types
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from flowse.data.manifest import Kind, Utterance
from flowse.errors import DamagedFile
from flowse.refusal import SURROUNDINGS

Row = TypeVar("Row")
_GROUP_ROWS = 65_536  # so many rows are in memory at once
_MEND = "`verify --mend` forgets what is damaged, and the next run makes it anew"
_ARROW = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}


class RowsError(DamagedFile, ValueError):
    """A parquet file cannot be read, or its columns are not those of its rows; the message names the file."""


def _arrow_type(annotation: Any, number: str = "") -> tuple[pa.DataType, bool]:
    """Return the Arrow type of a field's annotation, and whether the column may be null.

    Args:
        annotation: Type of the field.
        number: Arrow's name of the type of its numbers; empty: as for Python's.
    """
    origin = typing.get_origin(annotation)
    if origin in (typing.Union, types.UnionType):
        inner = [part for part in typing.get_args(annotation) if part is not type(None)]
        arrow, _ = _arrow_type(inner[0], number)
        return arrow, True
    if origin is Literal:
        return pa.string(), False
    if origin in (tuple, list):
        return pa.list_(_arrow_type(typing.get_args(annotation)[0], number)[0]), False
    return (pa.type_for_alias(number) if number else _ARROW[annotation]), False


def schema_of(row_type: type[Any]) -> pa.Schema:
    """Return the parquet schema of a flat dataclass, which is the only definition of the columns.

    A field's metadata may name a smaller type for its numbers, e.g. ``{"arrow": "uint16"}``.
    """
    hints = typing.get_type_hints(row_type)
    columns = [
        (field.name, *_arrow_type(hints[field.name], field.metadata.get("arrow", "")))
        for field in dataclasses.fields(row_type)
    ]
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
        RowsError: A file cannot be read, or a column of `row_type` is missing, of another type or has an empty cell
            that it may not have; the message names the file and the column.
    """
    schema = schema_of(row_type)
    lists = {field.name for field in schema if pa.types.is_list(field.type)}
    for path in [paths] if isinstance(paths, Path) else paths:
        for batch in _batches(path, schema, _optional(row_type)):
            with readable(path):
                rows = batch.to_pylist()
            for values in rows:
                for name in lists:
                    values[name] = tuple(values[name])
                yield row_type(**values)


def _optional(row_type: type[Any]) -> dict[str, Any]:
    """Return the columns that files of earlier times lack, with the value that stands for them."""
    return {field.name: field.default for field in dataclasses.fields(row_type) if "optional column" in field.metadata}


def _present(schema: pa.Schema, optional: Mapping[str, Any], found: pa.Schema) -> pa.Schema:
    """Return the part of a schema that a file must have: all but the optional columns that it lacks."""
    return pa.schema([field for field in schema if field.name not in optional or field.name in found.names])


def _filled(read: Any, schema: pa.Schema, optional: Mapping[str, Any]) -> Any:
    """Return a table or batch with the optional columns that its file lacks, in the order of the schema."""
    for field in schema:
        if field.name not in read.schema.names:
            read = read.append_column(field, pa.repeat(pa.scalar(optional[field.name], field.type), read.num_rows))
    return read.select(schema.names)


def read_columns(
    path: Path, row_type: type[Any] | None, columns: Sequence[str] | None = None, filters: Any = None
) -> pa.Table:
    """Read columns of a parquet file of dataclass rows at once.

    Args:
        path: The file.
        row_type: The dataclass of its rows; None: the types of the columns are not checked.
        columns: Names of the columns; None: all of `row_type`.
        filters: Which rows, as `pyarrow.parquet.read_table` takes it.

    Raises:
        RowsError: As in `read_rows`.
    """
    with readable(path):
        if row_type is not None:
            whole = schema_of(row_type)
            schema = whole if columns is None else pa.schema([whole.field(name) for name in columns])
            found = pq.read_schema(path)
            present = _present(schema, _optional(row_type), found)
            check_columns(path, present, found)
            columns = present.names
        table = pq.read_table(path, columns=columns, filters=filters)
        table.validate(full=True)
    if row_type is not None:
        table = _filled(table, schema, _optional(row_type))
        check_cells(path, schema, table)
    return table


def read_group(path: Path, file: pq.ParquetFile, group: int, row_type: type[Any]) -> pa.Table:
    """Read one group of rows of an open file, checked as `read_columns` checks a file.

    Raises:
        RowsError: As in `read_rows`.
    """
    schema, optional = schema_of(row_type), _optional(row_type)
    present = _present(schema, optional, file.schema_arrow)
    check_columns(path, present, file.schema_arrow)
    with readable(path):
        table = _filled(file.read_row_group(group, columns=present.names), schema, optional)
    check_cells(path, schema, table)
    return table


def _batches(path: Path, schema: pa.Schema, optional: Mapping[str, Any]) -> Iterator[pa.RecordBatch]:
    """Yield the batches of a file whose columns are checked."""
    with readable(path):
        file = pq.ParquetFile(path)
    with file:
        present = _present(schema, optional, file.schema_arrow)
        check_columns(path, present, file.schema_arrow)
        batches = file.iter_batches(batch_size=4096, columns=present.names)
        while True:
            with readable(path):
                batch = next(batches, None)
            if batch is None:
                return
            batch = _filled(batch, schema, optional)
            check_cells(path, schema, batch)
            yield batch


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turn what Arrow raises for a damaged file into one line.

    Raises:
        RowsError: Naming the file; storage and network errors stay as they are.
    """
    try:
        yield
    except RowsError:
        raise
    except (pa.ArrowException, OSError, ValueError, TypeError) as error:
        if isinstance(error, OSError) and error.errno in SURROUNDINGS:
            raise
        why = " ".join(str(error).split())[:200] or type(error).__name__
        raise RowsError(f"{path}: cannot be read as parquet: {why}; {_MEND}") from None


def check_columns(path: Path, wanted: pa.Schema, found: pa.Schema) -> None:
    """Compare the columns of a file with those of its rows.

    Raises:
        RowsError: A column is missing, there twice or of another type.
    """
    missing = [name for name in wanted.names if name not in found.names]
    if missing:
        raise RowsError(f"{path}: column(s) {', '.join(missing)} missing; not written by this version; {_MEND}")
    for field in wanted:
        places = found.get_all_field_indices(field.name)
        if len(places) > 1:
            raise RowsError(f"{path}: column {field.name} is there {len(places)} times; {_MEND}")
        kind = found.field(places[0]).type
        lists = pa.types.is_list(kind) and pa.types.is_list(field.type)
        if kind != field.type and not (lists and kind.value_type == field.type.value_type):
            raise RowsError(f"{path}: column {field.name} holds {kind}, not {field.type}; {_MEND}")


def check_cells(path: Path, schema: pa.Schema, read: pa.Table | pa.RecordBatch) -> None:
    """Look for empty cells in columns that may not have one.

    Raises:
        RowsError: There is one.
    """
    for field in schema:
        if not field.nullable and read.column(field.name).null_count:
            raise RowsError(f"{path}: column {field.name} has an empty cell; {_MEND}")


def durations_s(path: Path, kind: Kind | None = None) -> list[float]:
    """Read the lengths of a manifest's rows in seconds, and nothing else of them.

    Args:
        path: Parquet file of `Utterance` rows.
        kind: Only rows of this kind; None: all.
    """
    import pyarrow.compute as pc

    table = read_columns(path, Utterance, ["kind", "duration_s"])
    if kind is not None:
        table = table.filter(pc.equal(table["kind"], kind))
    lengths: list[float] = table["duration_s"].to_pylist()
    return lengths
