"""GigaSpeech: 10,000 h of English from audiobooks, podcasts and YouTube; `GigaSpeech.json` lists the segments."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flowse.data.manifest import Kind, Split, Utterance
from pipelines.corpora import check_names, corpus_folder, require_kind, tree_digest, unfit, utterance
from pipelines.corpora.segment_lists import rows_by_recording, segment_list

LICENCE = "Apache-2.0 metadata, audio for non-commercial research"
SUBSETS = ("XL", "L", "M", "S", "XS", "DEV", "TEST")
_LIST = "GigaSpeech.json"
_SPLITS: dict[str, Split] = {"DEV": "dev", "TEST": "test"}
_PUNCTUATION = {"COMMA": ",", "PERIOD": ".", "QUESTIONMARK": "?", "EXCLAMATIONPOINT": "!"}
_TAG = re.compile(r"\s*<([A-Z]+)>")


@dataclass(frozen=True, kw_only=True)
class Options:
    """Settings of GigaSpeech.

    Attributes:
        subsets: Subsets to read: one of XS (10 h), S (250 h), M (1,000 h), L (2,500 h), XL (10,000 h), each of which
            contains the one before; and DEV (12 h), TEST (40 h).
        use_split: Put DEV and TEST into the splits dev and test, and the rest into train; otherwise ingest chooses.
    """

    subsets: Sequence[str] = ("XL", "DEV", "TEST")
    use_split: bool = True

    def __post_init__(self) -> None:
        check_names("subsets", self.subsets, SUBSETS)


def _folder(root: Path, corpus: str) -> Path:
    return corpus_folder(root, corpus, "GigaSpeech")


def listing_digest(root: Path, options: Options) -> str:
    """Hash the sizes and times of the list of segments and of the audio files."""
    return tree_digest(root, options, segment_list(_folder(root, "gigaspeech") if root.is_dir() else root, _LIST))


def read(root: Path, name: str, kind: Kind, options: Options, seed: int) -> Iterator[Utterance]:
    """Yield the segments of the chosen subsets; those that are labelled as something else than speech are unfit.

    Raises:
        UserError: The list of segments is missing or damaged.
    """
    require_kind(kind, ("speech",), name)
    folder = _folder(root, name)
    # Only this part of lhotse's recipe is used: the rest needs `speechcolab`, and the whole list in memory.
    from lhotse.recipes.gigaspeech import parse_utterance

    def rows_of(audio: dict[str, Any]) -> Iterator[Utterance]:
        _, segments = parse_utterance(audio, folder)
        path = (folder / audio["path"]).relative_to(root).as_posix()
        for segment, labels in zip(segments, audio["segments"], strict=True):
            subsets = {label.strip("{}") for label in labels["subsets"]}
            if not subsets.intersection(options.subsets):
                continue
            row = utterance(
                name,
                kind,
                path,
                offset_s=float(segment.start),
                duration_s=float(segment.duration),
                text=punctuated(segment.text),
                language="en",
                speaker="" if segment.speaker in ("N/A", None) else segment.speaker,
                split=_split(subsets) if options.use_split else None,
            )
            if row.text:
                yield row
            else:
                yield unfit(row, "not_speech", f"{segment.id} is labelled {segment.text.strip() or 'without a text'}")

    yield from rows_by_recording(segment_list(folder, _LIST), rows_of)


def _split(subsets: set[str]) -> Split:
    return next((split for subset, split in _SPLITS.items() if subset in subsets), "train")


def punctuated(text: str) -> str:
    """Replace the tags of punctuation by its characters, and remove `<SIL>`, `<MUSIC>`, `<NOISE>` and `<OTHER>`."""
    return _TAG.sub(lambda tag: _PUNCTUATION.get(tag[1], ""), text).strip()
