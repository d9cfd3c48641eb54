"""Which module reads which corpus, and its options checked."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from pipelines.corpora import demo, folder
from pipelines.stage import UserError

READERS: dict[str, Any] = {"demo": demo, "folder": folder}


def reader_of(name: str, options: Mapping[str, Any], where: str) -> tuple[Any, Any]:
    """Return a reader module and its options as its own dataclass.

    Raises:
        UserError: An option is unknown or has a value that the reader refuses.
    """
    module = READERS[name]
    known = [field.name for field in fields(module.Options)]
    for key in options:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
            raise UserError(f"{where}: unknown option {key!r} of reader {name!r}; {hint}")
    try:
        return module, module.Options(**options)
    except (TypeError, ValueError) as error:
        raise UserError(f"{where}: {error}") from None
