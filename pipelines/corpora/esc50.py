"""ESC-50: 2,000 clips of 5 s in 50 categories of environmental sound."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from flowse.audio.recordings import find_recordings
from flowse.data.manifest import Kind, Split, Utterance
from flowse.data.tables import Columns, read_table
from flowse.errors import UserError
from pipelines.corpora import corpus_folder, missing_error, require_kind, tree_digest, unfit, utterance

LICENCE = "CC-BY-NC-3.0"
_ESC10_LICENCE = "CC-BY-3.0"
_COLUMNS = Columns(path="filename", required=("fold", "category", "src_file"), texts=("esc10",))
VOICES = ("breathing", "coughing", "crying_baby", "laughing", "sneezing", "snoring")
"""Categories of human voices: if they were noise, a model would learn to remove voices."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Settings of ESC-50.

    Attributes:
        voices: Whether to keep the categories that hold human voices (breathing, coughing, crying_baby, laughing,
            sneezing, snoring); otherwise their clips are rejected as human_voice.
        leave_out: Further categories to leave out, e.g. [church_bells].
        dev_folds: Folds of split dev, of the five.
        test_folds: Folds of split test. No recording is in two folds.
        use_split: Whether the folds decide the split; otherwise ingest chooses by the recording that a clip is from.
    """

    voices: bool = False
    leave_out: Sequence[str] = ()
    dev_folds: Sequence[int] = (4,)
    test_folds: Sequence[int] = (5,)
    use_split: bool = True

    def __post_init__(self) -> None:
        if isinstance(self.leave_out, str):
            raise ValueError(f"leave_out: {self.leave_out!r} must be a list, [{self.leave_out}]")
        for key in ("dev_folds", "test_folds"):
            folds = getattr(self, key)
            if isinstance(folds, int) or not set(folds) <= set(range(1, 6)):
                raise ValueError(f"{key}: {folds} must be a list of numbers from 1 to 5")
        if both := set(self.dev_folds) & set(self.test_folds):
            raise ValueError(f"dev_folds and test_folds share {', '.join(map(str, sorted(both)))}")


def _folder(root: Path, corpus: str) -> Path:
    return corpus_folder(root, corpus, "ESC-50-master", "ESC-50")


def listing_digest(root: Path, options: Options) -> str:
    """Hash names, sizes and times of the audio files and of the table."""
    folder = _folder(root, "esc50") if root.is_dir() else root
    return tree_digest(root, options, folder / "meta" / "esc50.csv")


def read(root: Path, name: str, kind: Kind, options: Options, seed: int) -> Iterator[Utterance]:
    """Yield the clips of the table in its order, then those that are not in the table.

    Raises:
        UserError: The table or one of its columns is missing.
    """
    require_kind(kind, ("noise",), name)
    folder = _folder(root, name)
    table = folder / "meta" / "esc50.csv"
    if not table.is_file():
        raise missing_error(folder, name, "table meta/esc50.csv")
    clips = [{"filename": row.path.strip(), **row.texts} for row in read_table(table, _COLUMNS)]
    if unknown := set(options.leave_out) - {clip["category"] for clip in clips}:
        raise missing_error(table, name, f"category {', '.join(sorted(unknown))} (options.leave_out)")
    known = {clip["filename"] for clip in clips}
    clips += [{"filename": path.name} for path in find_recordings(folder / "audio") if path.name not in known]
    for clip in clips:
        row = utterance(
            name,
            kind,
            (folder / "audio" / clip["filename"]).relative_to(root).as_posix(),
            speaker=clip.get("src_file", ""),
            split=_split(clip, options) if options.use_split else None,
            licence=_ESC10_LICENCE if clip.get("esc10") == "True" else LICENCE,
        )
        category = clip.get("category", "")
        if category in VOICES and not options.voices:
            yield unfit(row, "human_voice", f"{clip['filename']} is of category {category}; see options.voices")
        elif category in options.leave_out:
            yield unfit(row, "left_out", f"{clip['filename']} is of category {category}, in options.leave_out")
        else:
            yield row


def _split(clip: dict[str, str], options: Options) -> Split | None:
    if "fold" not in clip:
        return None
    if clip["fold"] not in ("1", "2", "3", "4", "5"):
        raise UserError(f"meta/esc50.csv: fold of {clip['filename']} is {clip['fold']!r}, not 1 to 5; fetch it again")
    fold = int(clip["fold"])
    return "test" if fold in options.test_folds else "dev" if fold in options.dev_folds else "train"
