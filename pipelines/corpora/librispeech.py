"""LibriSpeech: 960 h of read English, with a file of transcripts for each chapter."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from flowse.audio.recordings import find_files, find_recordings
from flowse.data.manifest import SPLITS, Kind, Utterance
from flowse.errors import UserError
from pipelines.corpora import check_names, corpus_folder, missing_error, require_kind, tree_digest, utterance

LICENCE = "CC-BY-4.0"
PARTS = (
    "train-clean-100",
    "train-clean-360",
    "train-other-500",
    "dev-clean",
    "dev-other",
    "test-clean",
    "test-other",
    "train-clean-5",
    "dev-clean-2",
)


@dataclass(frozen=True, kw_only=True)
class Options:
    """Settings of LibriSpeech, and of Mini LibriSpeech.

    Attributes:
        parts: Folders to read; empty: those that are there.
        use_split: Whether the names of the parts (train-, dev-, test-) decide the split; otherwise ingest chooses.
    """

    parts: Sequence[str] = ()
    use_split: bool = True

    def __post_init__(self) -> None:
        if self.parts:
            check_names("parts", self.parts, PARTS)


def listing_digest(root: Path, options: Options) -> str:
    """Hash names, sizes and times of the audio files and of the transcripts."""
    return tree_digest(root, options, *_texts(root))


def read(root: Path, name: str, kind: Kind, options: Options, seed: int) -> Iterator[Utterance]:
    """Yield the recordings and transcripts of one chapter after the other; either may lack the other.

    lhotse's recipe is not used: it opens all 280,000 files, which ingest does anyway, and holds everything in memory.

    Raises:
        UserError: There is no part, or a chosen part is missing.
    """
    require_kind(kind, ("speech",), name)
    folder = corpus_folder(root, name, "LibriSpeech")
    parts = options.parts or [part for part in PARTS if (folder / part).is_dir()]
    if not parts:
        raise missing_error(folder, name, f"folder of LibriSpeech's ({PARTS[0]}, …)")
    for part in sorted(parts):
        if not (folder / part).is_dir():
            raise missing_error(folder, name, f"folder {part}")
        split = next(name for name in SPLITS if part.startswith(name))
        for chapter in sorted({path.parent for path in [*find_recordings(folder / part), *_texts(folder / part)]}):
            texts = dict(line for path in _texts(chapter) for line in _lines(path))
            names = {path.stem: path for path in find_recordings(chapter) if path.parent == chapter}
            for stem in sorted({*names, *texts}):
                path = names.get(stem, chapter / f"{stem}.flac")
                yield utterance(
                    name,
                    kind,
                    path.relative_to(root).as_posix(),
                    text=texts.get(stem, ""),
                    language="en",
                    speaker=stem.split("-")[0],
                    split=split if options.use_split else None,
                )


def _texts(folder: Path) -> list[Path]:
    return list(find_files(folder, (".trans.txt",)))


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: byte {error.start} is not UTF-8; fetch the file again") from None
    for line in text.splitlines():
        stem, _, said = line.strip().partition(" ")
        if stem:
            yield stem, said.strip()
