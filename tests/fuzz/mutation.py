"""Seeded mutations: of bytes, of text, of JSON and YAML values, and of tables."""

from __future__ import annotations

import copy
import io
import random
import struct
from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

_NUMBERS = (0, 1, 2, 3, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0xFFFFFFFE)
_WORDS = (
    "", " ", "nan", "NaN", "inf", "-inf", "null", "None", "no", "yes", "~", "-1", "0", "1", "1e308", "1e-320",
    "99999999999999999999", "-0.0", "[]", "{}", "[1, 2]", "{a: 1}", "'", '"', '""', "x" * 300, "字" * 120,
    "\u202e\u0007\u001b[31m", "../../../etc/passwd", "/etc/passwd", "c:\\x", "a/../b", ".", "..", "=1+1", "@x",
    "<script>alert(1)</script>", "${oc.env:HOME}", "${name}", "${", "*a", "&a x", "!!python/none", "#", ": ", "- ",
    "\t", "\r", "\n", "\0", "é", "e\u0301", "🙂", "2026-11-26", "0x10", "1_000", "1:30", "true",
)  # fmt: skip
_VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2**31, 2**63, -(2**63) - 1, 10**400, 0.5, -0.5, 1e308, float("nan"), float("inf"),
    "", "x", "0", "-1", "nan", "../x", "/etc/passwd", "x" * 5000, "\0", "\ud800", "字",
    [], {}, [None], [[]], {"": None}, [1, "a"], {"a": {"b": [1]}},
)  # fmt: skip


def of_bytes(content: bytes, chance: random.Random) -> bytes:
    """Return `content` with one to four damages; half of them strike the first 200 bytes, where headers are."""
    for _ in range(chance.choice((1, 1, 1, 2, 4))):
        content = chance.choice(_BYTE_MUTATIONS)(content, chance)
    return content


def _place(content: bytes, chance: random.Random) -> int:
    within = min(len(content), 200) if chance.random() < 0.5 else len(content)
    return chance.randrange(within) if within else 0


def _flip(content: bytes, chance: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(chance.choice((1, 1, 3, 20)) if content else 0):
        changed[_place(content, chance)] ^= 1 << chance.randrange(8)
    return bytes(changed)


def _cut(content: bytes, chance: random.Random) -> bytes:
    return content[: _place(content, chance)]


def _remove(content: bytes, chance: random.Random) -> bytes:
    start = _place(content, chance)
    return content[:start] + content[start + chance.choice((1, 2, 4, 8, 64, 4096)) :]


def _insert(content: bytes, chance: random.Random) -> bytes:
    start, count = _place(content, chance), chance.choice((1, 2, 4, 8, 512))
    return content[:start] + chance.choice((bytes(count), b"\xff" * count, chance.randbytes(count))) + content[start:]


def _repeat(content: bytes, chance: random.Random) -> bytes:
    start = _place(content, chance)
    stop = start + chance.choice((4, 30, 1000, len(content)))
    return content[:stop] + content[start:stop] + content[stop:]


def _number(content: bytes, chance: random.Random) -> bytes:
    kind = chance.choice(("<I", ">I", "<H", ">H", "<Q", ">Q"))
    size, start = struct.calcsize(kind), _place(content, chance)
    return (
        content[:start] + struct.pack(kind, chance.choice(_NUMBERS) & (2 ** (8 * size) - 1)) + content[start + size :]
    )


def _blank(content: bytes, chance: random.Random) -> bytes:
    start, count = _place(content, chance), chance.choice((4, 100, 5000))
    return content[:start] + bytes(min(count, max(0, len(content) - start))) + content[start + count :]


def _swap(content: bytes, chance: random.Random) -> bytes:
    middle = _place(content, chance)
    return content[middle:] + content[:middle]


_BYTE_MUTATIONS: tuple[Callable[[bytes, random.Random], bytes], ...] = (
    _flip, _flip, _cut, _remove, _insert, _repeat, _number, _number, _number, _blank, _swap,
)  # fmt: skip


def of_text(content: bytes, chance: random.Random) -> bytes:
    """Return text with a word, a separator or a line changed, or with damaged bytes."""
    if chance.random() < 0.2:
        return of_bytes(content, chance)
    lines = content.decode("utf-8").split("\n")
    for _ in range(chance.choice((1, 1, 2, 5))):
        number = chance.randrange(len(lines))
        line, word = lines[number], chance.choice(_WORDS)
        match chance.randrange(8):
            case 0:
                lines.insert(number, lines[chance.randrange(len(lines))])
            case 1:
                lines[number] = ""
            case 2:
                lines[number] = line.replace(chance.choice(',: ="'), word, 1)
            case 3 | 4:
                fields = line.split(",")
                fields[chance.randrange(len(fields))] = word
                lines[number] = ",".join(fields)
            case 5:
                head, colon, _ = line.partition(": ")
                lines[number] = f"{head}{colon}{word}"
            case 6:
                place = chance.randrange(len(line) + 1)
                lines[number] = line[:place] + word + line[place:]
            case _:
                lines[number] = chance.choice((" ", "  ", "\t")) + line
    text = "\n".join(lines)
    coding = chance.choice(("utf-8",) * 6 + ("utf-16", "latin-1", "utf-8-sig"))
    return text.encode(coding, "replace")


def of_value(value: Any, chance: random.Random) -> Any:
    """Return a copy of a JSON or YAML value with one to three nested values replaced, removed, added or moved."""
    changed = copy.deepcopy(value)
    for _ in range(chance.choice((1, 1, 2, 3))):
        places = list(_places(changed))
        if not places:
            return chance.choice(_VALUES)
        holder, key = chance.choice(places)
        match chance.randrange(6):
            case 0 | 1 | 2:
                holder[key] = copy.deepcopy(chance.choice(_VALUES))
            case 3:
                del holder[key]
            case 4:
                holder[key] = copy.deepcopy(_at(chance.choice(places)))
            case _ if isinstance(holder, dict):
                holder[chance.choice(("", "x", "name", f"{key}s", "files", "../x"))] = copy.deepcopy(
                    chance.choice(_VALUES)
                )
            case _:
                holder.append(copy.deepcopy(chance.choice(_VALUES)))
    return changed


def _at(place: tuple[Any, Any]) -> Any:
    return place[0][place[1]]


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Return every (container, key) below a value."""
    keys: Sequence[Any] = (
        list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    )
    found = [(value, key) for key in keys]
    return found + [place for key in keys for place in _places(value[key])]


def of_table(content: bytes, chance: random.Random) -> bytes:
    """Return a parquet file with a column retyped, emptied, renamed or removed, or with a cell changed."""
    if chance.random() < 0.3:
        return of_bytes(content, chance)
    table = pq.read_table(io.BytesIO(content))
    for _ in range(chance.choice((1, 1, 2))):
        if not table.num_columns:
            break
        number = chance.randrange(table.num_columns)
        name, count = table.column_names[number], table.num_rows
        match chance.randrange(8):
            case 0:
                table = table.remove_column(number)
            case 1:
                table = table.set_column(number, name, pa.nulls(count, table.schema.types[number]))
            case 2:
                table = table.set_column(number, name, pa.nulls(count))
            case 3:
                table = table.rename_columns(
                    [
                        *table.column_names[:number],
                        chance.choice(("x", "path", "", name.upper())),
                        *table.column_names[number + 1 :],
                    ]
                )
            case 4:
                table = chance.choice((table.slice(0, 0), table.slice(0, 1), pa.concat_tables([table, table])))
            case 5 | 6:
                table = table.set_column(number, name, _with_a_cell(table.column(number), chance))
            case _:
                kinds = (["a"], [[1]], [{"b": 1}], [b"\xff"], [1.5], [True], [2**60], [float("nan")])
                table = table.set_column(number, name, pa.array(chance.choice(kinds) * count))
    written = io.BytesIO()
    pq.write_table(table, written)
    return written.getvalue()


def _with_a_cell(column: pa.ChunkedArray, chance: random.Random) -> pa.Array:
    """Return the column with one cell changed to something of its type."""
    values = column.to_pylist()
    if values:
        place = chance.randrange(len(values))
        if pa.types.is_string(column.type):
            values[place] = chance.choice((None, *_WORDS))
        elif pa.types.is_integer(column.type):
            values[place] = chance.choice((None, 0, -1, 1, 2**31, 2**62, -(2**62)))
        elif pa.types.is_floating(column.type):
            values[place] = chance.choice((None, 0.0, -1.0, float("nan"), float("inf"), 1e300, 1e-300))
        else:
            values[place] = None
    try:
        return pa.array(values, column.type)
    except (pa.ArrowInvalid, OverflowError):
        return pa.array([None] * len(values), column.type)
