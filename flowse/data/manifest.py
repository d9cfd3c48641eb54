"""Manifest rows, one for each utterance, and reject rows; importable without pyarrow."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from flowse.refusal import Refusal, RefusalKind

Kind = Literal["speech", "noise", "rir"]
Split = Literal["train", "dev", "test"]
SPLITS: tuple[Split, ...] = ("train", "dev", "test")


@dataclass(frozen=True, kw_only=True)
class Utterance:
    """A stretch of one recording and all that is known about it; stages add knowledge, never edit rows in place.

    Attributes:
        utt_id: `<corpus>/<relative path>[#offset]` made safe by `make_utt_id`; unique in the manifest.
        corpus: Name of the corpus in the experiment's config.
        kind: Speech, noise or room impulse response.
        path: Audio file relative to the corpus root (roots differ between machines, rows do not).
        offset_s: Where the utterance begins in its file, in seconds.
        duration_s: Length in seconds; 0 until ingest has decoded the file.
        sample_rate: Of the file, in Hz; 0 until ingest.
        channels: Of the file; 0 until ingest.
        speaker: Speaker (or, for noise, recording) that splits must not share; empty if unknown.
        split: Part of the data it belongs to; None until ingest decides.
        licence: SPDX name or the corpus' own words; empty if unknown.
        language: ISO 639-1 code; empty if unknown.
        language_prob: Probability of `language` by the filter's model; None if it was not asked.
        text: Transcript; empty if unknown.
        text_source: Where `text` comes from: "corpus", "whisper:<digest>" or empty.
        text_logprob: Mean log-probability a token of a Whisper transcript; None otherwise.
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


@dataclass(frozen=True, kw_only=True)
class Reject:
    """An utterance that a stage did not keep, and why.

    Attributes:
        utt_id: The utterance.
        corpus: Its corpus.
        stage: Name of the stage that rejected it.
        kind: "dropped" if it was judged unfit, "failed" if it could not be judged because something broke.
        reason: Machine-readable reason, e.g. "too_short", "undecodable".
        detail: One line for people: what, where, how to mend it.
        duration_s: Its length in seconds, 0 if unknown.
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
        """Say that `stage` refused a row of the manifest, or a part of it that lasts `duration_s` seconds."""
        return cls(
            utt_id=row.utt_id,
            corpus=row.corpus,
            stage=stage,
            kind=refusal.kind,
            reason=refusal.reason,
            detail=refusal.detail,
            duration_s=row.duration_s if duration_s is None else duration_s,
        )


def make_utt_id(corpus: str, path: str, offset_s: float | None = None) -> str:
    """Make an id that is safe as a WebDataset key: lower case, no dots, no spaces.

    WebDataset cuts keys at the first dot, so `book.00` and `book.01` would merge silently. Characters
    outside ASCII letters, digits, `_`, `-` and `/` are written as `=` and their code point in hexadecimal, and
    upper case letters stay distinguishable only by the caller's uniqueness check.

    Args:
        corpus: Name of the corpus.
        path: Path relative to the corpus root, with or without suffix (the suffix is kept, as `-flac`).
        offset_s: Start inside a long recording; appended in milliseconds.
    """
    stem = path.lower().replace("\\", "/").replace(".", "-").replace(" ", "_")
    safe = re.sub(r"[^a-z0-9_/-]", lambda match: f"={ord(match[0]):x}", stem)
    suffix = "" if offset_s is None else f"-{round(offset_s * 1000):09d}"
    return f"{corpus.lower()}/{safe}{suffix}"
