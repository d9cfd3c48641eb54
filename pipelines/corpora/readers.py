"""The readers under their names in the config, with their options checked and no collection read twice."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from flowse.data.manifest import Kind
from flowse.errors import UserError
from pipelines.corpora import (
    Reader,
    SharedReader,
    demand,
    demo,
    dns,
    esc50,
    folder,
    gigaspeech,
    hf_datasets,
    kaldi,
    lhotse,
    librispeech,
    manifest,
    openslr26,
    openslr28,
    vctk,
    voicebank,
    webdataset,
    wenetspeech,
    wham,
)
from pipelines.engine.settings import build

READERS: Mapping[str, Reader] = {
    "demand": demand,
    "demo": demo,
    "dns": dns,
    "esc50": esc50,
    "folder": folder,
    "gigaspeech": gigaspeech,
    "hf_datasets": hf_datasets,
    "kaldi": kaldi,
    "lhotse": lhotse,
    "librispeech": librispeech,
    "manifest": manifest,
    "openslr26": openslr26,
    "openslr28": openslr28,
    "vctk": vctk,
    "voicebank": voicebank,
    "webdataset": webdataset,
    "wenetspeech": wenetspeech,
    "wham": wham,
}


def reader_of(name: str, options: Mapping[str, Any], where: str) -> tuple[Reader, Any]:
    """Return a reader and its options as the reader's dataclass.

    Args:
        name: Name of the reader in the config.
        options: The options as the config states them.
        where: Place in the config, for error messages.

    Raises:
        UserError: An option is unknown, has the wrong type, or the reader refuses its value.
    """
    reader = READERS[name]
    known = [field.name for field in fields(reader.Options)]
    for key in options:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
            raise UserError(f"{where}: unknown option {key!r} of reader {name!r}; {hint}")
    build(reader.Options, dict(options), where=where)
    # The values stay as they were written (20, not 20.0): the digest of a corpus is made of them.
    return reader, reader.Options(**options)


def refuse_shared(corpora: Iterable[tuple[Kind, str, Reader, Any, Path]]) -> None:
    """Refuse two corpora of one kind that hold the same recordings (OpenSLR 28 contains 26, VoiceBank is part of VCTK).

    Args:
        corpora: Kind, name, reader, options and folder of every corpus.

    Raises:
        UserError: Naming both corpora and the collection that both hold.
    """
    holders: dict[tuple[Kind, str], str] = {}
    for kind, name, reader, options, root in corpora:
        for collection in sorted(reader.holds(root, kind, options)) if isinstance(reader, SharedReader) else ():
            first = holders.setdefault((kind, collection), name)
            if first != name:
                raise UserError(
                    f"corpora {first!r} and {name!r} both hold {collection}: it would count twice, and might stand in "
                    f"two splits; remove one, or leave {collection} out by the options of the other"
                )
