"""The list of what a workspace must forget: it knows people and recordings by hashes alone, and ingest honours it.

A list in plain text would itself keep what was to be forgotten. Whoever knows a name can still ask for it.
"""

from __future__ import annotations

import dataclasses
import fcntl
import hashlib
import json
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from flowse.data.manifest import Utterance
from flowse.errors import UserError
from flowse.files import write_json
from flowse.json_records import WrongShape, from_json, to_json
from pipelines.corpora import Unfit, unfit

FILE = "forgotten.json"
"""Name of the list in the workspace."""

REASON = "forgotten"
"""Reason of the reject rows."""

What = Literal["utterance", "speaker", "corpus"]

_DIGITS = 32
_DETAIL = "it is on this workspace's list (`python -m pipelines forget --list`)"


def utterance_key(utt_id: str) -> str:
    """Return what stands for an utterance on the list."""
    return f"utterance:{_hash(utt_id)}"


def speaker_key(corpus: str, speaker: str) -> str:
    """Return what stands for a speaker of a corpus on the list."""
    return f"speaker:{_hash(corpus, speaker)}"


def corpus_key(corpus: str) -> str:
    """Return what stands for a corpus on the list; its name is in the configuration anyway."""
    return f"corpus:{corpus}"


def audio_key(row: Utterance) -> str | None:
    """Return what stands for the audio of a row, whatever the row is called; None if its content is not known."""
    if not row.content:
        return None
    return f"audio:{_hash(row.content, f'{row.offset_s:.3f}', f'{row.duration_s:.3f}')}"


def _hash(*names: str) -> str:
    return hashlib.sha256("\0".join(names).encode("utf-8", "surrogatepass")).hexdigest()[:_DIGITS]


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One thing that was asked to be forgotten.

    Attributes:
        what: Kind of the thing.
        key: What stands for it: `utterance_key`, `speaker_key` or `corpus_key`.
        corpus: Name of its corpus.
        since: Local time when it was put on the list, ISO 8601.
        audio: What stands for the audio of its recordings (`audio_key`): a copy under another name is turned away, too.
        recordings: Number of its recordings that the workspace knew.
        models: Trained models and exports that had used it by then, as stage/fingerprint.
    """

    what: What
    key: str
    corpus: str
    since: str
    audio: tuple[str, ...] = ()
    recordings: int = 0
    models: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class _File:
    """Content of the list's file."""

    forgotten: tuple[Entry, ...] = field(default=())


def read_list(workspace: Path) -> tuple[Entry, ...]:
    """Read the list of a workspace; empty if there is none.

    Raises:
        UserError: It cannot be read: nothing may run until it can.
    """
    path = workspace / FILE
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return ()
    try:
        return from_json(_File, json.loads(text)).forgotten
    except (WrongShape, ValueError) as error:
        raise UserError(
            f"{path}: not a list of what is forgotten: {error}; restore it from a backup, or delete it and forget anew"
        ) from None


@contextmanager
def changing(workspace: Path) -> Iterator[list[Entry]]:
    """Give the list to be changed in place; it is written when the block ends without an exception.

    Two processes that change it wait for each other. A run that is under way goes on with the list of its beginning.
    """
    workspace.mkdir(parents=True, exist_ok=True)
    with (workspace / f".{FILE}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        entries = list(read_list(workspace))
        yield entries
        write_json(workspace / FILE, to_json(_File(forgotten=tuple(entries))))


def since(workspace: Path, utt_id: str) -> str | None:
    """Return since when a workspace's list names an utterance by its id; None if it does not."""
    return next((entry.since for entry in read_list(workspace) if entry.key == utterance_key(utt_id)), None)


def used_by(workspace: Path, output: str) -> list[Entry]:
    """Return the entries whose recordings a model or export had used when they were forgotten.

    Args:
        workspace: The workspace.
        output: The model or export, as stage/fingerprint.
    """
    return [entry for entry in read_list(workspace) if output in entry.models]


def keys_of(entries: Iterable[Entry]) -> tuple[str, ...]:
    """Return all keys of a list, sorted: the value of `ingest.forgotten`."""
    return tuple(sorted({key for entry in entries for key in (entry.key, *entry.audio)}))


class ForgetList:
    """Tells whether a row is forgotten."""

    def __init__(self, keys: Collection[str]) -> None:
        """Sort the keys by their kind.

        Args:
            keys: As `keys_of` returns them.

        Raises:
            ValueError: A key is of no known form.
        """
        self._keys = frozenset(keys)
        kinds = {key.partition(":")[0] for key in keys}
        if unknown := sorted(kinds - {"utterance", "speaker", "corpus", "audio"}):
            raise ValueError(f"{unknown[0]!r} begins no key; a key is utterance:…, speaker:…, corpus:… or audio:…")
        self._kinds = frozenset(kinds)

    def __contains__(self, row: Utterance) -> bool:
        """Whether a row is forgotten by its id, its speaker or its corpus, or by its audio if its content is known."""
        kinds, keys = self._kinds, self._keys
        return bool(
            ("corpus" in kinds and corpus_key(row.corpus) in keys)
            or ("speaker" in kinds and row.speaker and speaker_key(row.corpus, row.speaker) in keys)
            or ("utterance" in kinds and utterance_key(row.utt_id) in keys)
            or ("audio" in kinds and audio_key(row) in keys)
        )

    @property
    def holds_audio(self) -> bool:
        """Whether something is forgotten by its audio, so that only rows with a content tell."""
        return "audio" in self._kinds

    def __bool__(self) -> bool:
        return bool(self._keys)


NOTHING = ForgetList(())
"""The empty list."""


def marked(row: Utterance) -> Unfit:
    """Return a forgotten row as one that is turned away; it still has its names: `anonymous` takes them."""
    if isinstance(row, Unfit):
        return dataclasses.replace(row, reason=REASON, detail=_DETAIL)
    return unfit(row, REASON, _DETAIL)


def is_marked(row: Utterance) -> bool:
    """Whether a row is what `marked` or `anonymous` returned."""
    return isinstance(row, Unfit) and row.reason == REASON


def anonymous(row: Utterance) -> Unfit:
    """Return the row that stands for a forgotten one in every file: it says that there was one, and not which."""
    nameless = Utterance(
        utt_id=f"{row.corpus.lower()}/=forgotten-{_hash(row.utt_id)[:16]}", corpus=row.corpus, kind=row.kind, path=""
    )
    return unfit(nameless, REASON, _DETAIL)
