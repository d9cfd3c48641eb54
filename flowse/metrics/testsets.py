"""Test sets: simulated mixtures and recordings in folders, chosen so that more data moves no choice."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from flowse.audio.recordings import AUDIO_SUFFIXES, find_recordings
from flowse.audio.waveform import check, probe, read_mono
from flowse.data.manifest import Reject
from flowse.data.row_files import RowFiles
from flowse.data.shards import IndexRow, read_index, read_mixture
from flowse.data.tables import Columns, TableRow, read_table, unread_columns
from flowse.errors import UserError
from flowse.fetching import ahead, fetched
from flowse.metrics.pairs import Pairs
from flowse.names import readable
from flowse.outside import is_url
from flowse.refusal import Refusal, refusing

NOISE_ONLY = "noise only"
"""Test set of the simulated mixtures without speech."""
_TRANSCRIPTS = Columns(required=("text",), texts=("language",))


@dataclass(frozen=True, kw_only=True)
class Item:
    """A recording of a test set.

    Attributes:
        key: Unique among all test sets.
        test_set: "simulated", `NOISE_ONLY` or the name of the `Pairs`.
        seconds: Length of the recording.
        language: ISO 639-1 code; empty if unknown.
        speaker: Name of the speaker; empty if unknown.
        text: The reference transcript; empty if unknown.
        corpus: Name of the corpus that it comes from.
        snr_db: SNR of the noisy version; None if unknown.
        reverberant: Whether the noisy version is reverberant; None if unknown.
        has_speech: Whether there is speech in the recording; if not, what enhancement leaves of it is to be nothing.
        row: Where the mixture is stored in the dataset; None for a recording in files.
        noisy: File of the noisy version; None for a mixture.
        clean: File of the clean version; None for a mixture or if there is none.
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
    has_speech: bool = True
    row: IndexRow | None = None
    noisy: Path | None = None
    clean: Path | None = None

    def reject(self, stage: str, refusal: Refusal) -> Reject:
        """Return the reject row of this recording, which `stage` refused."""
        return Reject(
            utt_id=self.key,
            corpus=self.corpus,
            stage=stage,
            kind=refusal.kind,
            reason=refusal.reason,
            detail=refusal.detail,
            duration_s=self.seconds,
        )


def choose(items: Sequence[Item], most: int) -> list[Item]:
    """Choose at most `most` items (0: all) by a hash of their keys: with more data, those already chosen stay first."""
    ranked = sorted(items, key=lambda item: hashlib.sha256(item.key.encode()).hexdigest())
    return sorted(ranked[:most] if most else ranked, key=lambda item: item.key)


def simulated_items(rows: Iterable[IndexRow]) -> list[Item]:
    """List mixtures as test items."""
    return [
        Item(
            key=row.key,
            test_set="simulated" if row.has_speech else NOISE_ONLY,
            seconds=row.seconds,
            language=row.language,
            speaker=row.speaker,
            text=row.text,
            corpus=row.corpus,
            snr_db=round(row.snr_db, 3) if row.has_speech else None,
            reverberant=bool(row.room_id) if row.has_speech else None,
            has_speech=row.has_speech,
            row=row,
        )
        for row in rows
    ]


def choose_simulated(rows: Iterable[IndexRow], most: int) -> list[list[Item]]:
    """Choose at most `most` mixtures with speech, and at most as many without; 0: all."""
    items = simulated_items(rows)
    return [choose([item for item in items if item.has_speech is speech], most) for speech in (True, False)]


def folder_items(pairs: Pairs) -> list[Item]:
    """List the recordings of a test set in folders.

    Raises:
        UserError: A folder or table is missing or empty, the table is not as `read_table` says or names none of the
            recordings, or a noisy recording has no clean version.
    """
    noisy = _files(pairs.noisy_folder, f"evaluate.pairs {pairs.name}: noisy")
    clean = _files(pairs.clean_folder, f"evaluate.pairs {pairs.name}: clean") if pairs.clean_folder else {}
    texts = _transcripts(pairs, noisy).texts
    by_name = {str(Path(name).with_suffix("")): path for name, path in clean.items()}
    by_id = {found[0]: path for name, path in clean.items() if (found := re.findall(r"fileid_(\d+)", name))}
    items = []
    for name in ahead(noisy, lambda name: noisy[name]):
        path = noisy[name]
        number = re.findall(r"fileid_(\d+)", name)
        partner = by_name.get(str(Path(name).with_suffix(""))) or (by_id.get(number[0]) if number else None)
        if clean and partner is None:
            raise UserError(f"evaluate.pairs {pairs.name}: {path} has no clean version of its name in {pairs.clean}")
        text, language = texts.get(name, ("", ""))
        try:
            with refusing(name):
                seconds = probe(path).duration_s
        except Refusal:
            seconds = 0.0  # the worker says what is wrong with it, in a reject row
        items.append(
            Item(
                key=f"{pairs.name}/{readable(name)}",
                test_set=pairs.name,
                seconds=seconds,
                language=language or pairs.language,
                text=text,
                corpus=pairs.name,
                has_speech=not pairs.noise_only,
                noisy=path.resolve(),
                clean=partner.resolve() if partner else None,
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


@dataclass(frozen=True)
class _Transcripts:
    """What a table says about the recordings of a folder.

    Attributes:
        texts: Text and language by the path of the recording.
        lost: Rows that name no recording.
        rows: Number of rows.
        unread: A line for every column that is not read.
    """

    texts: dict[str, tuple[str, str]]
    lost: list[TableRow]
    rows: int = 0
    unread: tuple[str, ...] = ()


def _transcripts(pairs: Pairs, noisy: Mapping[str, Path]) -> _Transcripts:
    """Read the table of a test set and find the recording of every row.

    Raises:
        UserError: The table is not as `read_table` says, names none of the recordings, or gives one of them two texts.
    """
    path = pairs.transcripts_file
    if path is None:
        return _Transcripts({}, [])
    where = f"evaluate.pairs {pairs.name}"
    files = RowFiles(pairs.noisy_folder, noisy)
    texts: dict[str, tuple[str, str]] = {}
    lost: list[TableRow] = []
    try:
        path = fetched(path)
        if is_url(pairs.transcripts) and not path.exists():
            raise UserError(f"{pairs.transcripts}: there is no such table; mend its address")
        rows = list(read_table(path, _TRANSCRIPTS))
        for row, name in zip(rows, files.find_all([row.path for row in rows]), strict=True):
            said = (row.texts["text"], row.texts["language"])
            if name is None:
                lost.append(row)
            elif texts.setdefault(name, said) != said:
                raise UserError(f"{row.where}: {readable(name)} stands here twice with different texts; remove one row")
        unread = tuple(unread_columns(path, _TRANSCRIPTS))
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    if lost and not texts:
        raise UserError(
            f"{where}: none of the {len(rows):,} rows of {pairs.transcripts} names a recording of {pairs.noisy}, e.g. "
            f"{readable(lost[0].path)!r}; the paths must be relative to it, such as {readable(next(iter(noisy)))!r}"
        )
    return _Transcripts(texts, lost, len(rows), unread)


def transcript_notes(pairs: Pairs) -> list[str]:
    """Return lines about rows of the table without a recording and recordings without a row; empty if all match.

    Raises:
        UserError: As `folder_items` says.
    """
    if not pairs.transcripts:
        return []
    noisy = _files(pairs.noisy_folder, f"evaluate.pairs {pairs.name}: noisy")
    found = _transcripts(pairs, noisy)
    where = f"evaluate.pairs {pairs.name}: {Path(pairs.transcripts).name}"
    lines = [f"evaluate.pairs {pairs.name}: {line}" for line in found.unread]
    if found.lost:
        first = readable(found.lost[0].path)
        lines.append(f"{where}: {len(found.lost):,} of {found.rows:,} rows name no recording, e.g. {first}")
    if bare := [name for name in noisy if name not in found.texts]:
        lines.append(f"{where}: {len(bare):,} of {len(noisy):,} recordings have no row, e.g. {readable(bare[0])}")
    return lines


def collect(index: Path | None, folders: Sequence[Pairs], most: int) -> list[Item]:
    """List the recordings of all test sets.

    Args:
        index: Index of the simulated dataset, of which the split test is used; None: no simulated test set.
        folders: Test sets in folders.
        most: Recordings of each set at most, mixtures without speech are a set of their own; 0: all.

    Raises:
        UserError: There is nothing to test on.
    """
    sets = choose_simulated(read_index(index, "test"), most) if index else []
    sets += [choose(folder_items(pairs), most) for pairs in folders]
    if not any(sets):
        raise UserError(
            "evaluate: simulate made no test mixtures and evaluate.pairs is empty; raise ingest.splits.test so that a "
            "speaker falls into it, or name a folder in evaluate.pairs"
        )
    return [item for items in sets for item in items]


def examples(items: Sequence[Item], count: int) -> list[Item]:
    """Choose `count` recordings or some more, as many of each test set, for people to listen to."""
    sets: dict[str, list[Item]] = {}
    for item in items:
        sets.setdefault(item.test_set, []).append(item)
    return [item for of_set in sets.values() for item in choose(of_set, -(-count // len(sets)))] if count else []


def read_item(item: Item, shards: Path | None = None) -> tuple[dict[str, Float32[np.ndarray, " N"]], int]:
    """Read a recording's noisy version and, if there is one, its clean version; without speech there is none.

    Args:
        item: The recording.
        shards: Folder of the simulated dataset; needed for its mixtures.

    Returns:
        Mono samples by version, equally long, and their sampling rate in Hz.

    Raises:
        Refusal: A file cannot be read, or is silent.
    """
    if item.row is not None:
        assert shards is not None, "only mixtures of the simulated dataset have a row in its index"
        mixture = read_mixture(shards, item.row)
        target = {"clean": mixture.clean} if item.has_speech else {}
        return {"noisy": mixture.noisy, **target}, mixture.sample_rate
    assert item.noisy is not None, "what is no mixture has a file"
    rate = probe(item.noisy).sample_rate
    signals = {"noisy": read_mono(item.noisy, rate)}
    check(signals["noisy"], str(item.noisy))
    if item.clean:
        clean = read_mono(item.clean, rate)
        check(clean, str(item.clean))
        # Some sets pad one of the two by a few samples.
        length = min(len(clean), len(signals["noisy"]))
        signals = {"noisy": signals["noisy"][:length], "clean": clean[:length]}
    return signals, rate
