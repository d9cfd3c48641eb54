"""Manifest rows, one for each utterance, and reject rows; importable without pyarrow."""

from __future__ import annotations

import hashlib
import math
import re
from dataclasses import dataclass, field
from typing import Literal

from flowse.names import NAME_BYTES, bounded
from flowse.refusal import Refusal, RefusalKind

Kind = Literal["speech", "noise", "rir"]
Split = Literal["train", "dev", "test"]
SPLITS: tuple[Split, ...] = ("train", "dev", "test")

_ID_NAME_BYTES = NAME_BYTES - len("-00.clean.flac")
"""Longest last part of an id: shards add the number of the copy and a suffix to it."""
_ID_BYTES = 3500
"""Longest id: below the longest path that a system takes, with room for the folder that a tar is unpacked to."""
_HASH_CHARACTERS = 16


@dataclass(frozen=True, kw_only=True)
class Utterance:
    """A recording, or a stretch of one, and everything known about it; a stage writes new rows and edits none in place.

    Attributes:
        utt_id: Unique id that `make_utt_id` makes of the corpus' name, the path and the offset.
        corpus: Name of the corpus in the experiment's config.
        kind: Speech, noise or room impulse response.
        path: Audio file relative to the corpus root (roots differ between machines, rows do not).
        offset_s: Start of the utterance in its file, in seconds.
        duration_s: Length in seconds; 0 until ingest has decoded the file.
        sample_rate: Sample rate of the file, in Hz; 0 until ingest has decoded the file.
        channels: Number of channels of the file; 0 until ingest has decoded the file.
        speaker: Speaker (or, for noise, recording) that splits must not share; empty if unknown.
        split: The split that the row belongs to; None until ingest assigns one.
        licence: SPDX name or the corpus' own words; empty if unknown.
        language: ISO 639-1 code; empty if unknown.
        language_prob: Probability of `language` by the language filter's model; None if the model was not run.
        text: Transcript; empty if unknown.
        text_source: Source of `text`: "corpus", "whisper:<digest>" or empty.
        text_logprob: Mean log-probability of a token of a Whisper transcript; None otherwise.
        content: Hash of the bytes of the file (`flowse.data.content.content_of`), by which every later stage knows that
            the audio still is what ingest decoded; empty: not known, and not checked.
    """

    utt_id: str
    corpus: str
    kind: Kind
    path: str
    offset_s: float = 0.0
    duration_s: float = 0.0
    sample_rate: int = 0
    channels: int = 0
    speaker: str = ""
    split: Split | None = None
    licence: str = ""
    language: str = ""
    language_prob: float | None = None
    text: str = ""
    text_source: str = ""
    text_logprob: float | None = None
    # Manifests that were made by hand, or before this column was, are still read.
    content: str = field(default="", metadata={"optional column": True})


@dataclass(frozen=True, kw_only=True)
class Reject:
    """An utterance that a stage did not keep, and the reason.

    Attributes:
        utt_id: Id of the utterance.
        corpus: Name of the utterance's corpus.
        stage: Name of the stage that rejected the utterance.
        kind: "dropped" if the utterance was judged unfit, "failed" if it could not be judged because something broke.
        reason: Machine-readable reason, e.g. "too_short", "undecodable".
        detail: One line for people: what is wrong, where, and how to mend it.
        duration_s: Length of the utterance in seconds, 0 if unknown.
    """

    utt_id: str
    corpus: str
    stage: str
    kind: RefusalKind
    reason: str
    detail: str = ""
    duration_s: float = 0.0

    @classmethod
    def of(cls, row: Utterance, stage: str, refusal: Refusal, duration_s: float | None = None) -> Reject:
        """Return the reject of a row that `stage` refused, or of a part of the row that lasts `duration_s` seconds.

        A length that is no length (negative, not a number: the row may be refused for it) counts as unknown.
        """
        length_s = row.duration_s if duration_s is None else duration_s
        return cls(
            utt_id=row.utt_id,
            corpus=row.corpus,
            stage=stage,
            kind=refusal.kind,
            reason=refusal.reason,
            detail=refusal.detail,
            duration_s=length_s if 0 <= length_s < math.inf else 0.0,
        )


def make_utt_id(corpus: str, path: str, offset_s: float | None = None) -> str:
    """Return an id that is safe as a WebDataset key and as a file name: lower case, no dots, no spaces, bounded.

    WebDataset cuts keys at the first dot, so `book.00` and `book.01` would merge silently. Characters outside ASCII
    letters, digits, `_`, `-` and `/` become `=` and their code point in hexadecimal. A part that would be longer than
    file systems hold loses its middle for a hash. Paths that differ only in the case of letters, or in dots for
    hyphens, get the same id: the list of a corpus tells them apart by `distinct_id`.

    Args:
        corpus: Name of the corpus.
        path: Path relative to the corpus root, with or without suffix (a suffix is kept, as `-flac`).
        offset_s: Start inside a long recording, in seconds; the id ends with it in milliseconds.
    """
    stem = path.lower().replace("\\", "/").replace(".", "-").replace(" ", "_")
    safe = re.sub(r"[^a-z0-9_/-]", lambda match: f"={ord(match[0]):x}", stem)
    return _bounded_id(f"{corpus.lower()}/{safe}{_milliseconds(offset_s)}")


def distinct_id(utt_id: str, path: str) -> str:
    """Return an id for a path whose own id another path of the corpus has; it depends on nothing but the path."""
    digest = hashlib.sha256(path.encode("utf-8", "surrogatepass")).hexdigest()[:_HASH_CHARACTERS]
    return _bounded_id(f"{utt_id}=={digest}")


def _milliseconds(offset_s: float | None) -> str:
    if offset_s is None:
        return ""
    # A time that is no number is refused later; until then its row needs an id, too.
    return f"-{round(offset_s * 1000):09d}" if math.isfinite(offset_s * 1000) else f"-{offset_s:g}".replace(".", "-")


def _bounded_id(utt_id: str) -> str:
    *folders, name = utt_id.split("/")
    short = "/".join([*(bounded(part) for part in folders), bounded(name, _ID_NAME_BYTES)])
    if len(short) <= _ID_BYTES:
        return short
    digest = hashlib.sha256(utt_id.encode()).hexdigest()[:_HASH_CHARACTERS]
    return f"{folders[0]}/={digest}/{bounded(name, _ID_NAME_BYTES)}"
