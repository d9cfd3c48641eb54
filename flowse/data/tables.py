"""Reads tables from outside, csv or parquet, strictly: what is not there is empty, and what is doubtful is refused."""

from __future__ import annotations

import csv
import difflib
import io
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flowse.errors import UserError
from flowse.names import readable

if TYPE_CHECKING:
    import pyarrow as pa

_DELIMITERS = (",", "\t", ";", "|")
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?|[+-]?(?:nan|inf|infinity)", re.ASCII | re.IGNORECASE)
_FORMULA_BEGINS = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
"""Beginnings of a cell that spreadsheets take for a formula; the last four are full-width forms of the first four."""
_EXACT = 2.0**53
"""Largest whole number up to which every whole number has a float of its own."""


@dataclass(frozen=True, slots=True)
class TableRow:
    """One row of a table.

    Attributes:
        where: Table and line (csv) or row (parquet) for messages, e.g. "t.csv, line 3".
        path: The cell that names a file, exactly as it stands there; never empty.
        texts: Text of every asked column, without spaces around it; empty where the table has none.
        numbers: Number of every asked column; None where the table has none. It may be infinite or, in csv, nan.
    """

    where: str
    path: str
    texts: dict[str, str]
    numbers: dict[str, float | None] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Columns:
    """The columns that a reader asks for; names are matched without regard to case and to spaces around them.

    Attributes:
        path: Column that names a file; every table must have it, and every row must fill it.
        required: Columns of texts that every table must have.
        texts: Further columns of texts.
        numbers: Columns of numbers.
    """

    path: str = "path"
    required: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()
    numbers: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Return the names of all columns."""
        return (self.path, *self.required, *self.texts, *self.numbers)


def read_table(path: Path, columns: Columns) -> Iterator[TableRow]:
    """Yield the rows of a csv or parquet file.

    A csv has a header, UTF-8 with or without a mark, and commas, tabs, semicolons or bars between its cells; every row
    has as many cells as the header. A null of parquet and an empty cell of csv are empty; the words "nan", "None" and
    "null" in a column of texts are words. Whole numbers in a column of texts become their digits; other types are
    refused.

    Args:
        path: The table; its first bytes say whether it is parquet.
        columns: The columns that are read; further ones are left alone (`unread_columns` names them).

    Raises:
        UserError: The table is missing or no such table, lacks a required column, or a row is not as the header says;
            the message names the line and how to mend it.
    """
    reader = _parquet_rows if _is_parquet(path) else _csv_rows
    yield from reader(path, columns)


def unread_columns(path: Path, columns: Columns) -> list[str]:
    """Return a line for every column that `read_table` leaves alone, with the known name that may be meant.

    Raises:
        UserError: As `read_table` says.
    """
    if _is_parquet(path):
        with _opened(path) as file:
            names = _names(path, file)
    else:
        names = _header(path, _decoded(path), columns)[0]
    known = {_plain(name) for name in columns.names}
    lines = []
    for name in names:
        if _plain(name) and _plain(name) not in known and not _plain(name).startswith("__index_level"):
            near = difflib.get_close_matches(_plain(name), known, n=1, cutoff=0.7)
            hint = f"; is {near[0]!r} meant?" if near else ""
            lines.append(f"{path.name}: column {readable(name)!r} is not read{hint}")
    return lines


def neutral_cell(value: Any) -> Any:
    """Return a cell that no spreadsheet takes for a formula: texts that begin like one get an apostrophe before them.

    Numbers and other texts are returned as they are.
    """
    if isinstance(value, str) and value.lstrip(" ").startswith(_FORMULA_BEGINS):
        return f"'{value}"
    return value


def _plain(name: str) -> str:
    return name.strip().casefold()


def _places(path: Path, names: Sequence[str], columns: Columns) -> dict[str, int]:
    """Return the position of each asked column that the table has.

    Raises:
        UserError: A required column is missing, or an asked one stands there twice.
    """
    plain = [_plain(name) for name in names]
    places = {name: plain.index(_plain(name)) for name in columns.names if _plain(name) in plain}
    for name in (columns.path, *columns.required):
        if name not in places:
            shown = ", ".join(readable(known) for known in names) or "none"
            raise UserError(
                f"{path}: column {name!r} is missing; it has: {shown}; the first line must name the columns"
            )
    for name in places:
        if plain.count(_plain(name)) > 1:
            raise UserError(f"{path}: has column {name!r} twice; rename or remove one of them")
    return places


# --- csv --------------------------------------------------------------------------------------------------------------


def _decoded(path: Path) -> str:
    """Return the content of a csv.

    Raises:
        UserError: The file is missing, is not UTF-8, or is no text.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: the table cannot be read: {error.strerror}; mend its path") from None
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise UserError(f"{path}: is UTF-16; save it as UTF-8 (in spreadsheets: 'CSV UTF-8')")
    if data.startswith(b"PK\x03\x04"):
        raise UserError(f"{path}: is a spreadsheet or an archive, not csv; save it as 'CSV UTF-8'")
    if (at := data.find(b"\0")) >= 0:
        line = data.count(b"\n", 0, at) + 1
        raise UserError(f"{path}, line {line}: holds a zero byte; it is no csv, or is damaged")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        bad = data[error.start : error.start + 1].hex()
        raise UserError(f"{path}, line {line}: byte 0x{bad} is not UTF-8; save the table as UTF-8") from None


def _header(path: Path, text: str, columns: Columns) -> tuple[list[str], dict[str, Any]]:
    """Return the names in the first line, and how the cells are separated.

    Raises:
        UserError: There is no first line, or it cannot be read.
    """
    line = next((line for line in io.StringIO(text, newline="") if line.strip()), "")
    if not line:
        raise UserError(f"{path}: is empty; its first line must name the columns: {', '.join(columns.names)}")
    best: tuple[int, int] = (-1, -1)
    names: list[str] = []
    form: dict[str, Any] = {}
    wrong = ""
    for delimiter in _DELIMITERS:
        # "path, text": the spaces behind the commas belong to nobody, also before quotes.
        spaced = bool(re.search(re.escape(delimiter) + r" +\S", line))
        tried: dict[str, Any] = {"delimiter": delimiter, "skipinitialspace": spaced, "strict": True}
        try:
            cells = next(csv.reader([line], **tried))
        except csv.Error as error:
            wrong = wrong or str(error)
            continue
        found = {_plain(cell) for cell in cells}
        score = (sum(_plain(name) in found for name in columns.names), len(cells))
        if score > best:
            best, names, form = score, cells, tried
    if not form:
        raise UserError(f"{path}, line 1: {wrong}; write a quote inside a name twice, or leave it out")
    return names, form


def _csv_rows(path: Path, columns: Columns) -> Iterator[TableRow]:
    text = _decoded(path)
    names, form = _header(path, text, columns)
    places = _places(path, names, columns)
    # Lines are cut where csv cuts them only: a text may hold other marks that Python takes for ends of lines.
    reader = csv.reader(io.StringIO(text, newline=""), **form)
    begun, seen_header = 1, False
    while True:
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise UserError(
                f"{path}, line {begun}: {error}; a cell that begins with a quote must end with one, and a quote inside "
                'it is written twice ("")'
            ) from None
        if cells is None:
            return
        where, begun, end = f"{path}, line {begun}", reader.line_num + 1, reader.line_num
        if not any(cell.strip() for cell in cells):
            continue
        if not seen_header:
            seen_header = True
            continue
        if len(cells) != len(names):
            few = len(cells) < len(names)
            mend = (
                "add the missing cells"
                if few
                else f"put a text that holds {_shown(form['delimiter'])} in double quotes"
            )
            raise UserError(f"{where}: has {len(cells)} cells, the first line has {len(names)}; {mend}")
        _refuse_swallowed(where, end, cells, names, form["delimiter"])
        for name, cell in zip(names, cells, strict=True):
            if not name.strip() and cell.strip():
                raise UserError(
                    f"{where}: {readable(cell[:40])!r} stands in a column without a name; name the column, or put a "
                    f"text that holds {_shown(form['delimiter'])} in double quotes"
                )
        values = {name: cells[place].strip() for name, place in places.items()}
        yield TableRow(
            where,
            _path(where, columns.path, cells[places[columns.path]]),
            {name: " ".join(values.get(name, "").splitlines()) for name in (*columns.required, *columns.texts)},
            {name: _number(where, name, values.get(name, "")) for name in columns.numbers},
        )


def _path(where: str, name: str, cell: str) -> str:
    if not cell.strip():
        raise UserError(f"{where}: {name} is empty; name the file, or remove the row")
    return cell


def _shown(delimiter: str) -> str:
    return {",": "a comma", "\t": "a tab", ";": "a semicolon", "|": "a bar"}[delimiter]


def _refuse_swallowed(where: str, end: int, cells: Sequence[str], names: Sequence[str], delimiter: str) -> None:
    """Refuse a quoted cell that holds what looks like rows: a lone quote takes everything up to the next one.

    Raises:
        UserError: Naming the lines.
    """
    for cell in cells:
        if "\n" not in cell and "\r" not in cell:
            continue
        if any(line.count(delimiter) >= len(names) - 1 for line in cell.splitlines()[1:]):
            raise UserError(
                f"{where}: a quote opens a cell that ends at line {end} only and holds whole rows; write a quote that "
                'stands for itself twice ("") within quotes'
            )


def _number(where: str, name: str, text: str) -> float | None:
    if not text:
        return None
    if not _NUMBER.fullmatch(text):
        hint = "; write a point for the decimal comma" if re.fullmatch(r"[+-]?\d+,\d+", text) else ""
        raise UserError(f"{where}: {name} is {readable(text[:40])!r}, not a number{hint}")
    return float(text)


# --- parquet ----------------------------------------------------------------------------------------------------------


def _is_parquet(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            magic = file.read(4) == b"PAR1"
    except OSError as error:
        raise UserError(f"{path}: the table cannot be read: {error.strerror}; mend its path") from None
    if path.suffix.lower() in (".parquet", ".pq") and not magic:
        raise UserError(f"{path}: is no parquet file; write it again, or give a csv its own name")
    return magic


def _opened(path: Path) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(path)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: is damaged: {_first_line(error)}; write it again") from None


def _names(path: Path, file: Any) -> list[str]:
    """Return the names of a file's columns."""
    try:
        return list(file.schema_arrow.names)
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is damaged: {_first_line(error)}; write it again") from None


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def _parquet_rows(path: Path, columns: Columns) -> Iterator[TableRow]:
    import pyarrow as pa

    with _opened(path) as file:
        names = _names(path, file)
        places = _places(path, names, columns)
        row = 0
        try:
            for batch in file.iter_batches(batch_size=4096, columns=[names[place] for place in places.values()]):
                paths = _texts(path, columns.path, batch[names[places[columns.path]]], row)
                texts = {
                    name: _texts(path, name, batch[names[places[name]]], row)
                    if name in places
                    else [""] * batch.num_rows
                    for name in (*columns.required, *columns.texts)
                }
                numbers = {
                    name: _numbers(path, name, batch[names[places[name]]], row)
                    if name in places
                    else [None] * batch.num_rows
                    for name in columns.numbers
                }
                for index in range(batch.num_rows):
                    row += 1
                    yield TableRow(
                        f"{path}, row {row}",
                        _path(f"{path}, row {row}", columns.path, paths[index]),
                        {name: values[index].strip() for name, values in texts.items()},
                        {name: values[index] for name, values in numbers.items()},
                    )
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise UserError(f"{path}: is damaged: {_first_line(error)}; write it again") from None


def _values(column: pa.Array) -> tuple[pa.DataType, list[Any]]:
    """Return the type of a column's values, without its dictionary, and the values, where nan is nothing, too."""
    import pyarrow as pa

    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    values = column.to_pylist()
    if pa.types.is_floating(kind):  # data frames write a missing number as nan
        values = [None if value is None or math.isnan(value) else value for value in values]
    return kind, values


def _texts(path: Path, name: str, column: pa.Array, before: int) -> list[str]:
    import pyarrow as pa

    kind, values = _values(column)
    if not any(value is not None for value in values):
        return [""] * len(values)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or kind == getattr(pa, "string_view", pa.string)():
        return ["" if value is None else value for value in values]
    if pa.types.is_integer(kind):
        return ["" if value is None else str(value) for value in values]
    if pa.types.is_floating(kind) and all(value is None or _is_whole(value) for value in values):
        # A data frame turns a column of whole numbers with gaps into floats.
        return ["" if value is None else str(int(value)) for value in values]
    row = before + next(at for at, value in enumerate(values, start=1) if value is not None)
    raise UserError(f"{path}, row {row}: column {name!r} holds {kind}, not text; write it as text")


def _is_whole(value: float) -> bool:
    return abs(value) < _EXACT and value == int(value)


def _numbers(path: Path, name: str, column: pa.Array, before: int) -> list[float | None]:
    import pyarrow as pa

    kind, values = _values(column)
    if not any(value is not None for value in values):
        return [None] * len(values)
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return [None if value is None else float(value) for value in values]
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return [
            None if value is None else _number(f"{path}, row {row}", name, value.strip())
            for row, value in enumerate(values, start=before + 1)
        ]
    row = before + next(at for at, value in enumerate(values, start=1) if value is not None)
    raise UserError(f"{path}, row {row}: column {name!r} holds {kind}, not numbers; write it as numbers")
