"""Which module reads which corpus, its options checked, and no collection configured twice."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from flowse.data.manifest import Kind
from flowse.errors import UserError
from pipelines.corpora import (
    demand,
    demo,
    dns,
    esc50,
    folder,
    gigaspeech,
    lhotse,
    librispeech,
    manifest,
    openslr26,
    openslr28,
    vctk,
    voicebank,
    wenetspeech,
    wham,
)

READERS: dict[str, Any] = {
    "demand": demand,
    "demo": demo,
    "dns": dns,
    "esc50": esc50,
    "folder": folder,
    "gigaspeech": gigaspeech,
    "lhotse": lhotse,
    "librispeech": librispeech,
    "manifest": manifest,
    "openslr26": openslr26,
    "openslr28": openslr28,
    "vctk": vctk,
    "voicebank": voicebank,
    "wenetspeech": wenetspeech,
    "wham": wham,
}


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


def refuse_shared(corpora: Iterable[tuple[Kind, str, Any, Any, Path]]) -> None:
    """Refuse two corpora of a kind that hold the same recordings (OpenSLR 28 contains 26, VoiceBank is VCTK's).

    Args:
        corpora: Of every corpus its kind, name, reader, options and folder.

    Raises:
        UserError: Naming both corpora and what they share.
    """
    holders: dict[tuple[Kind, str], str] = {}
    for kind, name, reader, options, root in corpora:
        for collection in sorted(reader.holds(root, kind, options)) if hasattr(reader, "holds") else ():
            first = holders.setdefault((kind, collection), name)
            if first != name:
                raise UserError(
                    f"corpora {first!r} and {name!r} both hold {collection}: it would count twice, and might stand in "
                    f"two splits; remove one, or leave {collection} out by the options of the other"
                )
