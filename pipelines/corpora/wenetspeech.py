"""WenetSpeech: 10,000 h of Mandarin from YouTube and podcasts; `WenetSpeech.json` lists the segments."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flowse.data.manifest import Kind, Split, Utterance
from pipelines.corpora import check_names, corpus_folder, require_kind, tree_digest, unfit, utterance
from pipelines.corpora.segment_lists import rows_by_recording, segment_list

LICENCE = "CC-BY-4.0 metadata, audio for non-commercial research"
SUBSETS = ("L", "M", "S", "W", "DEV", "TEST_NET", "TEST_MEETING")
_LIST = "WenetSpeech.json"
_SPLITS: dict[str, Split] = {"DEV": "dev", "TEST_NET": "test", "TEST_MEETING": "test"}


@dataclass(frozen=True, kw_only=True)
class Options:
    """Settings of WenetSpeech.

    Attributes:
        subsets: Subsets to read: S (100 h), M (1,000 h) or L (10,005 h), each of which contains the one before; W
            (2,478 h, weakly labelled, confidence 0.6 to 0.95); DEV (20 h), TEST_NET (23 h), TEST_MEETING (15 h).
        min_confidence: Segments whose transcript has a lower confidence are rejected as low_confidence. The confidence
            is 1 in S and M, and at least 0.95 in L.
        use_split: Put DEV and both tests into the splits dev and test, and the rest into train; otherwise ingest
            chooses the split.
    """

    subsets: Sequence[str] = ("L", "DEV", "TEST_NET", "TEST_MEETING")
    min_confidence: float = 0.95
    use_split: bool = True

    def __post_init__(self) -> None:
        check_names("subsets", self.subsets, SUBSETS)
        if not 0 <= self.min_confidence <= 1:
            raise ValueError(f"min_confidence is {self.min_confidence}; it must be between 0 and 1")


def _folder(root: Path, corpus: str) -> Path:
    return corpus_folder(root, corpus, "WenetSpeech")


def listing_digest(root: Path, options: Options) -> str:
    """Hash the sizes and times of the list of segments and of the audio files."""
    return tree_digest(root, options, segment_list(_folder(root, "wenetspeech") if root.is_dir() else root, _LIST))


def read(root: Path, name: str, kind: Kind, options: Options, seed: int) -> Iterator[Utterance]:
    """Yield the segments of the chosen subsets in the order of the list; those of low confidence are unfit.

    The text is not changed here; transcribe writes it in simplified characters.

    Raises:
        UserError: The list of segments is missing or damaged.
    """
    require_kind(kind, ("speech",), name)
    folder = _folder(root, name)
    # Only this part of lhotse's recipe is used: the rest holds the whole list in memory, twice.
    from lhotse.recipes.wenet_speech import parse_utterance

    def rows_of(audio: dict[str, Any]) -> Iterator[Utterance]:
        _, by_subset = parse_utterance(audio, folder, list(options.subsets))
        # A segment of S is in M and L, too.
        segments = {segment.id: segment for found in by_subset.values() for segment in found}
        path = (folder / audio["path"]).relative_to(root).as_posix()
        for labels in audio["segments"]:
            segment = segments.get(labels["sid"])
            if segment is None:
                continue
            row = utterance(
                name,
                kind,
                path,
                offset_s=float(segment.start),
                duration_s=float(segment.duration),
                text=segment.text,
                language="zh",
                split=_split(labels["subsets"]) if options.use_split else None,
            )
            confidence = float(labels.get("confidence", 1.0))
            if confidence >= options.min_confidence:
                yield row
            else:
                yield unfit(row, "low_confidence", f"{segment.id}: {confidence:.2f}, under {options.min_confidence:g}")

    yield from rows_by_recording(segment_list(folder, _LIST), rows_of)


def _split(subsets: Sequence[str]) -> Split:
    return next((split for subset, split in _SPLITS.items() if subset in subsets), "train")
