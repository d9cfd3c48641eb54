"""Frozen dataclasses to JSON values and back, with every key and every type checked.

The JSON object of a dataclass has one key a field: the field's name, or what its metadata gives as "key". Every key has
to be there and no other may be; a field with the metadata `{"optional": True}` and a default may be absent, because
files were written before it existed. A class with another JSON form has a method `to_json` and a class method
`from_json`, and these are used instead.

Fields may be `str`, `int`, `float`, `bool`, `Any`, `Literal`, `X | None`, `list[X]`, `tuple[X, ...]`, `Mapping[str, X]`
and dataclasses.

Example:
    >>> @dataclass(frozen=True)
    ... class Point:
    ...     x: float
    ...     y: float
    >>> from_json(Point, {"x": 1.0, "y": "2"})
    Traceback (most recent call last):
    WrongShape: y is '2', not a number
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, TypeVar

Kind = TypeVar("Kind")

_NAMES = {str: "a text", int: "a whole number", float: "a number", bool: "true or false"}


class WrongShape(ValueError):
    """A JSON value has another form than its dataclass; the message names the key and what is wrong with it."""


def to_json(value: Any) -> Any:
    """Return the plain JSON form of a dataclass, or of tuples and mappings of them."""
    if hasattr(value, "to_json"):
        return value.to_json()
    if dataclasses.is_dataclass(value):
        return {key: to_json(getattr(value, field.name)) for key, field in _fields(value.__class__).items()}
    if isinstance(value, Mapping):
        return {key: to_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(item) for item in value]
    return value


def from_json(kind: type[Kind], value: object, where: str = "") -> Kind:
    """Build a dataclass from its plain JSON form.

    Args:
        kind: The dataclass.
        value: As `json.loads` gives it.
        where: Key of the value, for messages; empty: the value is the whole file.

    Raises:
        WrongShape: A key is missing or unknown, a value has another type, or the dataclass itself refuses a value.
    """
    built: Kind = _build(kind, value, where)
    return built


@cache
def _fields(kind: Any) -> dict[str, Any]:
    """Return the fields of a dataclass by their keys in JSON."""
    return {field.metadata.get("key", field.name): field for field in dataclasses.fields(kind)}


@cache
def _types(kind: Any) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _build(kind: Any, value: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        (inner,) = (option for option in arguments if option is not type(None))
        return None if value is None else _build(inner, value, where)
    if origin is typing.Literal:
        if value not in arguments:
            raise WrongShape(f"{where} is {_short(value)}, not one of {', '.join(map(repr, arguments))}")
        return value
    if origin in (list, tuple):
        if not isinstance(value, list):
            raise WrongShape(f"{where} is {_short(value)}, not a list")
        return origin(_build(arguments[0], item, f"{where}[{index}]") for index, item in enumerate(value))
    if origin is not None:
        return {key: _build(arguments[1], item, f"{where}[{key!r}]") for key, item in _object(value, where).items()}
    if kind in _NAMES:
        wanted = int | float if kind is float else kind
        if not isinstance(value, wanted) or (isinstance(value, bool) and kind is not bool):
            raise WrongShape(f"{where} is {_short(value)}, not {_NAMES[kind]}")
        return value
    if hasattr(kind, "from_json"):
        return _call(kind.from_json, where, value)
    return from_fields(kind, value, where)


def from_fields(kind: type[Kind], value: object, where: str = "") -> Kind:
    """Build a dataclass from an object with a key a field: what `from_json` does for a class without its own form.

    Raises:
        WrongShape: As in `from_json`.
    """
    described: Any = kind  # mypy does not take a type variable's class for hashable
    fields, hints = _fields(described), _types(described)
    content = _object(value, where)
    prefix = f"{where}." if where else ""
    for key, field in fields.items():
        if key not in content and not field.metadata.get("optional"):
            raise WrongShape(f"{prefix}{key} is missing")
    for key in content:
        if key not in fields:
            raise WrongShape(f"{prefix}{key} is unknown, perhaps of a newer version")
    values = {
        field.name: _build(hints[field.name], content[key], f"{prefix}{key}")
        for key, field in fields.items()
        if key in content
    }
    built: Kind = _call(kind, where, **values)
    return built


def _call(build: Callable[..., Any], where: str, *arguments: Any, **values: Any) -> Any:
    """Call a constructor; name the place in the file where it refuses a value."""
    try:
        return build(*arguments, **values)
    except ValueError as error:
        raise WrongShape(f"{where}: {error}" if where else str(error)) from None


def _object(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise WrongShape(f"{where or 'the content'} is {_short(value)}, not an object with keys")
    return value


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
