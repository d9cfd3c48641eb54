"""One key says where an experiment's data are: paths below `data/` become paths below `cluster.data`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, TypeVar

from flowse.errors import UserError

Config = TypeVar("Config")

_DATA = "data"


def placed(config: Config, folder: str) -> Config:
    """Return a configuration whose paths below `data/` are below another folder.

    Fields say what they hold by their metadata: `data=True`, a path; `model=True`, an embedded name or a path;
    `data="models"`, a folder that is chosen if the field is empty and the folder of this name is there.

    Args:
        config: A dataclass; its fields are followed down.
        folder: What `data/` stands for: a folder or a URL; empty: nothing changes.

    Raises:
        UserError: The folder begins with a home folder that does not exist.
    """
    if not folder:
        return config
    try:
        whole = folder if "://" in folder else str(Path(folder).expanduser().absolute())
    except RuntimeError:
        raise UserError(f"cluster.data: {folder} begins with a home folder that does not exist") from None
    found: Config = _placed(config, whole.rstrip("/"))
    return found


def _placed(value: Any, folder: str) -> Any:
    if isinstance(value, tuple | list):
        return type(value)(_placed(item, folder) for item in value)
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return value
    changed = {}
    for field in dataclasses.fields(value):
        before = getattr(value, field.name)
        kind = field.metadata.get("data")
        if kind is True or field.metadata.get("model"):
            after: Any = _below(before, folder)
        elif isinstance(kind, str):
            after = before or (inside if Path(inside := f"{folder}/{kind}").is_dir() else "")
        else:
            after = _placed(before, folder)
        if after is not before and after != before:
            changed[field.name] = after
    return dataclasses.replace(value, **changed) if changed else value


def _below(path: Any, folder: str) -> Any:
    if not isinstance(path, str):
        return path
    first, slash, rest = path.removeprefix("./").partition("/")
    return f"{folder}{slash}{rest}" if first == _DATA else path
