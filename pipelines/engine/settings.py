"""Frozen dataclasses from YAML files and `key=value` overrides, with messages that name file, key and mistake.

OmegaConf resolves `${references}` and sets overridden keys; the dataclasses are then built here by hand. Merging over
`OmegaConf.structured` would be less code, but (2.4) it leaves the items of a list of dataclasses unchecked, reports
what a `__post_init__` refuses without its key, never names the file, and its messages take three lines of types.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import math
import re
import types
import typing
from collections import abc
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, TypeVar

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from flowse.errors import UserError

Config = TypeVar("Config")
_Base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the C loader takes a tenth of the time
_MOST_VALUES = 100_000
"""Values that a file may hold with its aliases written out: ten lines of YAML can stand for 10^9 values."""
_RESOLVER = re.compile(r"\$\{[^{}]*:")
_FALSE, _TRUE = ("false", "no", "off"), ("true", "yes", "on")


class _Loader(_Base):  # type: ignore[misc]
    """YAML with the scalars of version 1.2, and no key twice.

    Version 1.1 reads the language `no` as false, the time `1:30` as 90 and the name `2025-01-01` as a date.
    """

    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {}

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        """Build a mapping.

        Raises:
            ConstructorError: A key stands twice.
        """
        seen: dict[str, int] = {}
        for key_node, _ in node.value:
            name, line = str(key_node.value), key_node.start_mark.line + 1
            if name in seen and key_node.tag != "tag:yaml.org,2002:merge":
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {name!r} stands in lines {seen[name]} and {line}; keep one of them"
                )
            seen[name] = line
        return super().construct_mapping(node, deep)


for _tag, _pattern, _first in (
    ("bool", r"^(?:true|True|TRUE|false|False|FALSE)$", "tTfF"),
    ("int", r"^[-+]?[0-9]+$|^0x[0-9a-fA-F]+$|^0o[0-7]+$", "-+0123456789"),
    (
        "float",
        r"^[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$|^[-+]?\.(?:inf|Inf|INF)$|^\.(?:nan|NaN|NAN)$",
        "-+0123456789.",
    ),
    ("null", r"^(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]),
    ("merge", r"^(?:<<)$", "<"),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(_pattern), list(_first))
_Loader.add_constructor("tag:yaml.org,2002:int", lambda loader, node: _as_int(loader.construct_scalar(node)))
_Loader.add_constructor("tag:yaml.org,2002:float", lambda loader, node: _as_float(loader.construct_scalar(node)))


def _as_int(text: str) -> int:
    """Read an integer as YAML 1.2 writes it: a leading zero means nothing, 0o and 0x do."""
    return int(text, 10) if text.lstrip("+-").isdigit() else int(text, 0)


def _as_float(text: str) -> float:
    """Read a number as YAML 1.2 writes it: `.inf` and `.nan` have a dot."""
    return float(re.sub(r"\.(inf|nan)", r"\1", text.lower()))


def load(kind: type[Config], path: Path, overrides: Sequence[str] = ()) -> Config:
    """Read a YAML file over a dataclass' defaults, then `key=value` overrides.

    Args:
        kind: A dataclass whose fields all have defaults.
        path: YAML file; `${a.b}` stands for the value of another key, and nothing else is looked up.
        overrides: Dotted keys with values, e.g. "train.max_steps=500". Where the field is text, all that follows the
            `=` is the text; elsewhere it is YAML.

    Raises:
        UserError: The file is missing or not YAML, a key is unknown or stands twice, a value has the wrong type or is
            refused.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: byte {error.start} is not UTF-8; save the file as UTF-8") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}; the examples are in configs/") from None
    content = _parsed(text, str(path)) or {}
    if not isinstance(content, dict):
        raise UserError(f"{path}: must hold keys and values, not a {type(content).__name__}")
    texts: dict[str, str] = {}
    try:
        merged = OmegaConf.create(content)
        for override in overrides:
            key, _, value = override.partition("=")
            parsed = _override(value, f"--set {override}")
            OmegaConf.update(merged, key, parsed, merge=False)
            if "${" not in value:
                texts[key] = value
        plain = OmegaConf.to_container(merged, resolve=True)
    except (OmegaConfBaseException, IndexError, RecursionError) as error:
        raise UserError(f"{path}: {(str(error) or type(error).__name__).splitlines()[0]}") from None
    built: Config = build(kind, plain, where=str(path), texts=texts)
    return built


def _parsed(text: str, where: str) -> Any:
    """Parse YAML that may come from a stranger.

    Raises:
        UserError: It is not YAML, is too large with its aliases written out, or asks for more than another key.
    """
    try:
        content = yaml.load(text, Loader=_Loader)
        _count(content, {})
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or str(error)
        line = f", line {mark.line + 1}" if mark else ""
        raise UserError(f"{where}: not YAML{line}: {problem}".splitlines()[0]) from None
    except RecursionError:
        raise UserError(f"{where}: values are nested too deep to be settings") from None
    except ValueError as error:
        raise UserError(f"{where}: {error}") from None
    return content


def _override(value: str, where: str) -> Any:
    """Parse the value of an override; what is not YAML is text."""
    try:
        return _parsed(value, where)
    except UserError:
        if value.lstrip()[:1] in ("{", "[", '"', "'") or "${" in value:
            raise
        return value


def _count(value: Any, known: dict[int, int]) -> int:
    """Count the values below a value as if every alias were written out.

    Raises:
        ValueError: There are too many, a value contains itself, or a text asks for a resolver of OmegaConf's.
    """
    if isinstance(value, str):
        if _RESOLVER.search(value):
            raise ValueError(
                f"{value!r} asks for a resolver; only the value of another key can be taken: ${{section.key}}"
            )
        return 1
    if not isinstance(value, dict | list):
        return 1
    if id(value) not in known:
        known[id(value)] = _MOST_VALUES  # until it is counted: a value inside itself has no end
        items = [*value.keys(), *value.values()] if isinstance(value, dict) else value
        known[id(value)] = 1 + sum(_count(item, known) for item in items)
    if known[id(value)] >= _MOST_VALUES:
        raise ValueError(f"more than {_MOST_VALUES:,} values with its aliases written out; write settings without them")
    return known[id(value)]


def build(
    kind: Any,
    value: Any,
    *,
    where: str,
    key: str = "",
    texts: Mapping[str, str] = MappingProxyType({}),
    finite: bool = True,
) -> Any:
    """Build frozen dataclasses from plain values, checking every key and type.

    Args:
        kind: A dataclass, or the type of one of its fields.
        value: Plain value from YAML.
        where: File, for messages.
        key: Dotted key of the value, for messages.
        texts: What an override says of a key, as it was typed; counts where the field is text.
        finite: Whether a number must be finite. A field with the metadata `finite=False` takes infinity and NaN.

    Raises:
        UserError: An unknown key (names the nearest known one), a wrong type, or a value that the dataclass refuses.
    """
    origin = typing.get_origin(kind)
    if dataclasses.is_dataclass(kind):
        return _build_dataclass(kind, value, where, key, texts)
    if origin in (typing.Union, types.UnionType):
        options = typing.get_args(kind)
        if value is None and type(None) in options:
            return None
        inner = [option for option in options if option is not type(None)]
        return build(inner[0], value, where=where, key=key, texts=texts, finite=finite)
    if origin in (list, tuple, abc.Sequence):
        if not isinstance(value, list | tuple):
            hint = f": [{value}]" if isinstance(value, str) and value else ""
            raise UserError(f"{where}: {key} is {value!r}; a list is needed{hint}")
        item_types = typing.get_args(kind)
        fixed = origin is tuple and Ellipsis not in item_types
        if fixed and len(item_types) != len(value):
            raise UserError(f"{where}: {key} has {len(value)} values; {len(item_types)} are needed")
        kinds = item_types if fixed else item_types[:1] * len(value)
        items = [
            build(item_kind, item, where=where, key=f"{key}[{index}]", texts=texts, finite=finite)
            for index, (item_kind, item) in enumerate(zip(kinds, value, strict=True))
        ]
        return items if origin is list else tuple(items)
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
    if kind is str and key in texts:
        return _text(texts[key], value)
    if kind is str and value is None:  # `key:` and `--set key=` mean an empty string
        return ""
    if kind is bool and isinstance(value, str) and value.lower() in (*_TRUE, *_FALSE):
        return value.lower() in _TRUE
    if kind is float and isinstance(value, str):  # YAML 1.1 reads 1e-4 as a string
        with contextlib.suppress(ValueError):
            value = float(value)
    if kind in (int, float) and isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise UserError(f"{where}: {key} is too large, a number of {value.bit_length()} bits; give one of at most 63")
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if kind is float and isinstance(value, float) and finite and not math.isfinite(value):
        raise UserError(f"{where}: {key} is {value}; a finite number is needed")
    if kind is str and isinstance(value, bool | int | float):
        raise UserError(f"{where}: {key} is {value!r}, a {type(value).__name__}; a str is needed: put it in quotes")
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise UserError(f"{where}: {key} is {value!r}, a {type(value).__name__}; a {kind.__name__} is needed")
    return value


def _text(typed: str, parsed: Any) -> str:
    """Return the text of an override: as it was typed, unless it is quoted as a whole or stands for nothing."""
    if typed.strip() in ("", "~", "null"):
        return ""
    quoted = typed[:1] in ("'", '"') and typed[-1:] == typed[:1] and isinstance(parsed, str)
    return parsed if quoted else typed


def _build_dataclass(kind: Any, value: Any, where: str, key: str, texts: Mapping[str, str]) -> Any:
    """Build one dataclass; whatever its own checks refuse is reported with file and key."""
    if not isinstance(value, dict):
        raise UserError(f"{where}: {key or 'the file'} is {value!r}; keys and values are needed")
    hints = typing.get_type_hints(kind)
    # A field may have another key in files: `continue` is a word of Python's own.
    fields = {field.metadata.get("key", field.name): field for field in dataclasses.fields(kind)}
    names = list(fields)
    values = {}
    for name, item in value.items():
        dotted = f"{key}.{name}" if key else str(name)
        if name not in names:
            raise UserError(f"{where}: unknown key {dotted!r}; {_nearest(str(name), names, key)}")
        finite = fields[name].metadata.get("finite", True)
        attribute = fields[name].name
        values[attribute] = build(hints[attribute], item, where=where, key=dotted, texts=texts, finite=finite)
    try:
        return kind(**values)
    except (TypeError, ValueError, ArithmeticError) as error:
        raise UserError(f"{where}: {f'{key}: ' if key else ''}{error}") from None


def _nearest(name: str, names: Sequence[str], prefix: str) -> str:
    """Suggest the known key that is spelt most like an unknown one, or name all known keys if none is similar."""
    near = difflib.get_close_matches(name, names, n=1)
    full = [f"{prefix}.{known}" if prefix else known for known in (near or names)]
    return f"did you mean {full[0]!r}?" if near else f"known: {', '.join(full)}"
