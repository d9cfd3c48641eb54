"""What the last look at the corpora saw, kept in the workspace: most commands show that and do not look again."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from flowse.files import write_json
from flowse.json_records import WrongShape, from_json, to_json
from flowse.outside import Outside
from pipelines.engine.records import read_json

RECORD = "LISTED.json"
NOT_LISTED = "not listed yet (run lists it)"


@dataclass(frozen=True)
class Seen:
    """What a look at files saw.

    Attributes:
        digest: Hash of what was there.
        at: Local time of the look, ISO 8601 with the offset from UTC.
        facts: Hash of sizes and times, where the digest is one of bytes.
    """

    digest: str
    at: str
    facts: str = field(default="", metadata={"optional": True})


@dataclass(frozen=True)
class Listed:
    """The record: what was seen, by place."""

    seen: Mapping[str, Seen] = field(default_factory=dict)


def _read(path: Path) -> Listed:
    """Read the record; one that is absent, damaged or of another version says nothing: a run writes it anew."""
    try:
        return from_json(Listed, read_json(path) or {"seen": {}})
    except WrongShape:
        return Listed()


class LastListing:
    """What the corpora and other files outside of a workspace hold, as one command sees them.

    Args:
        workspace: Folder of all outputs.
        looks: Whether files are looked at, once a command; if not, what the last look saw stands for them.
    """

    def __init__(self, workspace: Path, looks: bool) -> None:
        self._path, self._looks = workspace / RECORD, looks
        self._seen = dict(_read(self._path).seen)
        self._now: dict[str, Seen] = {}
        self._recalled: set[str] = set()

    def digest(self, outside: Outside) -> str:
        """Return the hash of files; `NOT_LISTED` if none is known. It is a `flowse.outside.DigestOf`."""
        if outside.is_cheap:
            return outside.digest()
        if not self._looks:
            self._recalled.add(outside.place)
            known = self._seen.get(outside.place)
            return known.digest if known else NOT_LISTED
        if outside.place not in self._now:
            self._now[outside.place] = self._look(outside)
        return self._now[outside.place].digest

    def _look(self, outside: Outside) -> Seen:
        """Look at files; bytes are read only where sizes or times are others than at the last look."""
        at = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        if outside.facts is None:
            return Seen(outside.digest(), at)
        facts, before = outside.facts(), self._seen.get(outside.place)
        return Seen(before.digest if before and before.facts == facts else outside.digest(), at, facts)

    def save(self) -> None:
        """Write down what was seen, for commands that do not look."""
        if self._now:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_json(self._path, to_json(Listed({**self._seen, **self._now})))

    @property
    def unknown(self) -> bool:
        """Whether `digest` has returned `NOT_LISTED`."""
        return any(place not in self._seen for place in self._recalled)

    def note(self) -> str:
        """Say of when that is what `digest` has returned; empty if it has looked, or there was nothing to look at."""
        if not self._recalled:
            return ""
        known = [self._seen[place].at for place in self._recalled if place in self._seen]
        if not known:
            return "the corpora have not been listed in this workspace yet; `run` lists them"
        more = "" if len(known) == len(self._recalled) else "; some have not been listed yet"
        return f"the corpora are shown as they were at {min(known)}{more}; `run` lists them again"
