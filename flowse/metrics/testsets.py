"""What a model is tested on: simulated mixtures and recordings in folders, chosen so that the choice is stable."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from flowse.audio.recordings import AUDIO_SUFFIXES, find_recordings
from flowse.audio.waveform import probe
from flowse.data.shards import IndexRow, read_index
from flowse.errors import UserError
from flowse.refusal import Refusal


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """A test set of recordings in folders.

    Attributes:
        name: What to call it.
        noisy: Folder of noisy recordings.
        clean: Folder of their clean versions under the same names, or under names with the same `fileid_<n>` (as the
            DNS Challenge has them); empty: none, then only scores without a reference.
        transcripts: CSV with columns path (within `noisy`), text and, if known, language; empty: none.
        language: ISO 639-1 code of recordings whose row does not say.
    """

    name: str = "pairs"
    noisy: str = field(default="", metadata={"fingerprint": False})
    clean: str = field(default="", metadata={"fingerprint": False})
    transcripts: str = field(default="", metadata={"fingerprint": False})
    language: str = ""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9_-]+", self.name):
            raise ValueError(f"name is {self.name!r}; letters, digits, _ and - are allowed")

    def content_digests(self) -> dict[str, str]:
        """Say what the folders hold: names and sizes, so that moving them changes nothing."""
        return {
            name: _listing(Path(getattr(self, name)))
            for name in ("noisy", "clean", "transcripts")
            if getattr(self, name)
        }


@dataclass(frozen=True, kw_only=True)
class Item:
    """A recording of a test set.

    Attributes:
        key: Unique among all test sets.
        test_set: "simulated" or the name of the `pairs`.
        seconds: Length.
        language: ISO 639-1 code; empty if unknown.
        speaker: Empty if unknown.
        text: What is said; empty if unknown.
        corpus: Where it comes from.
        snr_db: None if unknown.
        reverberant: None if unknown.
        row: Where its mixture is stored; None for a recording in files.
        noisy: File, else empty.
        clean: File, else empty.
        example: Whether it is to be heard on the page.
    """

    key: str
    test_set: str
    seconds: float
    language: str = ""
    speaker: str = ""
    text: str = ""
    corpus: str = ""
    snr_db: float | None = None
    reverberant: bool | None = None
    row: IndexRow | None = None
    noisy: str = ""
    clean: str = ""
    example: bool = False


def _listing(path: Path) -> str:
    """Hash the names and sizes of a folder's files, or of one file."""
    files = [path] if path.is_file() else sorted(one for one in path.rglob("*") if one.is_file())
    lines = [f"{one.relative_to(path).as_posix()}:{one.stat().st_size}" for one in files]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def choose(items: Sequence[Item], most: int) -> list[Item]:
    """Take at most `most` items, by a hash of their keys: more data adds some, and moves no other."""
    ranked = sorted(items, key=lambda item: hashlib.sha256(item.key.encode()).hexdigest())
    return sorted(ranked[:most] if most else ranked, key=lambda item: item.key)


def simulated_items(rows: Iterable[IndexRow]) -> list[Item]:
    """List mixtures as test items."""
    return [
        Item(
            key=row.key,
            test_set="simulated",
            seconds=row.seconds,
            language=row.language,
            speaker=row.speaker,
            text=row.text,
            corpus=row.corpus,
            snr_db=round(row.snr_db, 3),
            reverberant=bool(row.room_id),
            row=row,
        )
        for row in rows
    ]


def folder_items(pairs: Pairs) -> list[Item]:
    """List the recordings of a test set in folders.

    Raises:
        UserError: A folder or table is missing or empty, or a noisy recording has no clean version.
    """
    noisy = _files(Path(pairs.noisy), f"evaluate.pairs {pairs.name}: noisy")
    clean = _files(Path(pairs.clean), f"evaluate.pairs {pairs.name}: clean") if pairs.clean else {}
    texts = _texts(pairs) if pairs.transcripts else {}
    by_name = {str(Path(name).with_suffix("")): path for name, path in clean.items()}
    by_id = {found[0]: path for name, path in clean.items() if (found := re.findall(r"fileid_(\d+)", name))}
    items = []
    for name, path in noisy.items():
        number = re.findall(r"fileid_(\d+)", name)
        partner = by_name.get(str(Path(name).with_suffix(""))) or (by_id.get(number[0]) if number else None)
        if clean and partner is None:
            raise UserError(f"evaluate.pairs {pairs.name}: {path} has no clean version of its name in {pairs.clean}")
        text, language = texts.get(name, ("", ""))
        try:
            seconds = probe(path).duration_s
        except Refusal:
            seconds = 0.0  # the worker says what is wrong with it, in a reject row
        items.append(
            Item(
                key=f"{pairs.name}/{name}",
                test_set=pairs.name,
                seconds=seconds,
                language=language or pairs.language,
                text=text,
                corpus=pairs.name,
                noisy=str(path.resolve()),
                clean=str(partner.resolve()) if partner else "",
            )
        )
    return items


def _files(folder: Path, what: str) -> dict[str, Path]:
    if not folder.is_dir():
        raise UserError(f"{what}: {folder} is no folder; mend the path")
    found = {path.relative_to(folder).as_posix(): path for path in sorted(find_recordings(folder))}
    if not found:
        raise UserError(f"{what}: {folder} holds no recording ({', '.join(AUDIO_SUFFIXES)})")
    return found


def _texts(pairs: Pairs) -> dict[str, tuple[str, str]]:
    path = Path(pairs.transcripts)
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except OSError as error:
        raise UserError(f"evaluate.pairs {pairs.name}: {path} cannot be read: {error.strerror}") from None
    if rows and not {"path", "text"} <= set(rows[0]):
        raise UserError(f"evaluate.pairs {pairs.name}: {path} needs the columns path and text")
    return {row["path"]: (row["text"] or "", row.get("language") or "") for row in rows}


def collect(index: Path | None, folders: Sequence[Pairs], most: int, examples: int) -> list[Item]:
    """Put the test sets together, and mark the recordings to be heard.

    Args:
        index: Index of the simulated dataset, whose split test is used; None: not tested on.
        folders: Test sets in folders.
        most: Recordings of each set at most; 0: all.
        examples: Recordings to mark, spread over the sets.

    Raises:
        UserError: There is nothing to test on.
    """
    sets = [choose(simulated_items(read_index(index, "test")), most)] if index else []
    sets += [choose(folder_items(pairs), most) for pairs in folders]
    filled = [one for one in sets if one]
    if not filled:
        raise UserError(
            "evaluate: simulate made no test mixtures and evaluate.pairs is empty; raise ingest.splits.test so that a "
            "speaker falls into it, or name a folder in evaluate.pairs"
        )
    share = -(-examples // len(filled))
    marked = {item.key for one in filled for item in choose(one, share)} if examples else set()
    return [dataclasses.replace(item, example=item.key in marked) for one in filled for item in one]
