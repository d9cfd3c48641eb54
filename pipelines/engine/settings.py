"""Frozen dataclasses from YAML files and `key=value` overrides, with messages that name file, key and mistake.

OmegaConf resolves `${references}` and sets overridden keys; the dataclasses are then built here by hand. Merging over
`OmegaConf.structured` would be less code, but (2.4) it leaves the items of a list of dataclasses unchecked, reports
what a `__post_init__` refuses without its key, never names the file, and its messages take three lines of types.
"""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from flowse.errors import UserError

Config = TypeVar("Config")
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the C loader takes a tenth of the time


def load(kind: type[Config], path: Path, overrides: Sequence[str] = ()) -> Config:
    """Read a YAML file over a dataclass' defaults, then `key=value` overrides.

    Args:
        kind: A dataclass whose fields all have defaults.
        path: YAML file; `${a.b}` stands for the value of another key.
        overrides: Dotted keys with YAML values, e.g. "train.max_steps=500".

    Raises:
        UserError: The file is missing or not YAML, a key is unknown, a value has the wrong type or is refused.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}; the examples are in configs/") from None
    try:
        content = yaml.load(text, Loader=_LOADER) or {}
    except yaml.YAMLError as error:
        where = getattr(error, "problem_mark", None)
        raise UserError(
            f"{path}: not YAML{f', line {where.line + 1}' if where else ''}: {error}".splitlines()[0]
        ) from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: must hold keys and values, not a {type(content).__name__}")
    try:
        merged = OmegaConf.create(content)
        for override in overrides:
            key, _, value = override.partition("=")
            OmegaConf.update(merged, key, yaml.load(value, Loader=_LOADER), merge=False)
        plain = OmegaConf.to_container(merged, resolve=True)
    except (OmegaConfBaseException, yaml.YAMLError, IndexError) as error:
        raise UserError(f"{path}: {str(error).splitlines()[0]}") from None
    built: Config = build(kind, plain, where=str(path))
    return built


def build(kind: Any, value: Any, *, where: str, key: str = "") -> Any:
    """Build frozen dataclasses from plain values, checking every key and type.

    Args:
        kind: A dataclass, or the type of one of its fields.
        value: Plain value from YAML.
        where: File, for messages.
        key: Dotted key of the value, for messages.

    Raises:
        UserError: An unknown key (names the nearest known one), a wrong type, or a value that the dataclass refuses.
    """
    origin = typing.get_origin(kind)
    if dataclasses.is_dataclass(kind):
        return _build_dataclass(kind, value, where, key)
    if origin in (typing.Union, types.UnionType):
        options = typing.get_args(kind)
        if value is None and type(None) in options:
            return None
        inner = [option for option in options if option is not type(None)]
        return build(inner[0], value, where=where, key=key)
    if origin in (list, tuple):
        if not isinstance(value, list | tuple):
            raise UserError(f"{where}: {key} is {value!r}; a list is needed")
        item_types = typing.get_args(kind)
        fixed = origin is tuple and Ellipsis not in item_types
        if fixed and len(item_types) != len(value):
            raise UserError(f"{where}: {key} has {len(value)} values; {len(item_types)} are needed")
        kinds = item_types if fixed else item_types[:1] * len(value)
        items = [
            build(item_kind, item, where=where, key=f"{key}[{index}]")
            for index, (item_kind, item) in enumerate(zip(kinds, value, strict=True))
        ]
        return tuple(items) if origin is tuple else items
    if origin is dict:
        if not isinstance(value, dict):
            raise UserError(f"{where}: {key} is {value!r}; keys and values are needed")
        return dict(value)
    if origin is typing.Literal:
        if value not in typing.get_args(kind):
            raise UserError(f"{where}: {key} is {value!r}; allowed: {', '.join(map(str, typing.get_args(kind)))}")
        return value
    if kind is Any:
        return value
    if kind is str and value is None:  # `key:` and `--set key=` mean an empty string
        return ""
    if kind is float and isinstance(value, str):  # YAML 1.1 reads 1e-4 as a string
        try:
            return float(value)
        except ValueError:
            pass
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise UserError(f"{where}: {key} is {value!r}, a {type(value).__name__}; a {kind.__name__} is needed")
    return value


def _build_dataclass(kind: Any, value: Any, where: str, key: str) -> Any:
    """Build one dataclass; whatever its own checks refuse is reported with file and key."""
    if not isinstance(value, dict):
        raise UserError(f"{where}: {key or 'the file'} is {value!r}; keys and values are needed")
    hints = typing.get_type_hints(kind)
    names = [field.name for field in dataclasses.fields(kind)]
    values = {}
    for name, item in value.items():
        dotted = f"{key}.{name}" if key else str(name)
        if name not in names:
            raise UserError(f"{where}: unknown key {dotted!r}; {_nearest(str(name), names, key)}")
        values[name] = build(hints[name], item, where=where, key=dotted)
    try:
        return kind(**values)
    except (TypeError, ValueError) as error:
        raise UserError(f"{where}: {f'{key}: ' if key else ''}{error}") from None


def _nearest(name: str, names: Sequence[str], prefix: str) -> str:
    """Suggest the known key that is spelt most like an unknown one, or name all known keys if none is similar."""
    near = difflib.get_close_matches(name, names, n=1)
    full = [f"{prefix}.{known}" if prefix else known for known in (near or names)]
    return f"did you mean {full[0]!r}?" if near else f"known: {', '.join(full)}"
