"""VoiceBank, the clean half of VoiceBank-DEMAND (Valentini-Botinhao et al., 2016): a selection of VCTK, trimmed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from flowse.audio.recordings import find_files, find_recordings
from flowse.data.manifest import Kind, Split, Utterance
from pipelines.corpora import check_names, corpus_folder, missing_error, require_kind, tree_digest, utterance

LICENCE = "CC-BY-4.0"
PARTS = ("trainset_28spk", "trainset_56spk", "trainset", "testset")


@dataclass(frozen=True, kw_only=True)
class Options:
    """Settings of VoiceBank.

    Attributes:
        parts: Folders clean_<part>_wav to read; empty: those that are there. The noisy halves are never read, because
            they are no clean speech: to test on them, name both folders in evaluate.pairs.
        use_split: Whether the splits of the corpus (trainset, testset) count; otherwise ingest chooses the split.
    """

    parts: Sequence[str] = ()
    use_split: bool = True

    def __post_init__(self) -> None:
        if self.parts:
            check_names("parts", self.parts, PARTS)


def _folder(root: Path, corpus: str) -> Path:
    return corpus_folder(root, corpus, "DS_10283_2791", "VoiceBank-DEMAND", "VoiceBank")


def _parts(folder: Path, options: Options) -> list[str]:
    return sorted(options.parts) or [part for part in sorted(PARTS) if (folder / f"clean_{part}_wav").is_dir()]


def holds(root: Path, kind: Kind, options: Options) -> set[str]:
    """Return VCTK, whose recordings these are."""
    return {"VCTK"}


def listing_digest(root: Path, options: Options) -> str:
    """Hash names, sizes and times of the audio files and of the transcripts."""
    return tree_digest(root, options, *find_files(root, (".txt",)))


def read(root: Path, name: str, kind: Kind, options: Options, seed: int) -> Iterator[Utterance]:
    """Yield the clean recordings, with the texts in <part>_txt, if that folder is there.

    Raises:
        UserError: There is no part, or a chosen part is missing.
    """
    require_kind(kind, ("speech",), name)
    folder = _folder(root, name)
    parts = _parts(folder, options)
    if not parts:
        raise missing_error(folder, name, f"folder clean_{PARTS[0]}_wav, clean_testset_wav, …")
    for part in parts:
        if not (folder / f"clean_{part}_wav").is_dir():
            raise missing_error(folder, name, f"folder clean_{part}_wav")
        split: Split = "test" if part == "testset" else "train"
        for path in find_recordings(folder / f"clean_{part}_wav"):
            text = folder / f"{part}_txt" / f"{path.stem}.txt"
            yield utterance(
                name,
                kind,
                path.relative_to(root).as_posix(),
                text=" ".join(text.read_text(encoding="utf-8", errors="replace").split()) if text.is_file() else "",
                language="en",
                speaker=path.stem.split("_")[0],
                split=split if options.use_split else None,
            )
