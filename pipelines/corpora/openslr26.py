"""OpenSLR 26: 60,000 simulated room impulse responses of 600 rooms."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from flowse.audio.recordings import find_recordings
from flowse.data.manifest import Kind, Utterance
from pipelines.corpora import check_names, corpus_folder, missing_error, require_kind, tree_digest, utterance

LICENCE = "Apache-2.0"
SIZES = ("smallroom", "mediumroom", "largeroom")


@dataclass(frozen=True, kw_only=True)
class Options:
    """Settings of OpenSLR 26.

    Attributes:
        sizes: Sizes of rooms to read: smallroom (1 to 10 m), mediumroom (10 to 30 m), largeroom (30 to 50 m); there
            are 200 rooms of each.
        per_room: Responses to read of the 100 of every room, which differ only in the places; 0: all.
    """

    sizes: Sequence[str] = SIZES
    per_room: int = 0

    def __post_init__(self) -> None:
        check_names("sizes", self.sizes, SIZES)
        if self.per_room < 0:
            raise ValueError(f"per_room is {self.per_room}; it must be 0 (all) or more")


def holds(root: Path, kind: Kind, options: Options) -> set[str]:
    """Return a collection for each size."""
    return {f"OpenSLR 26 {size}" for size in options.sizes}


def listing_digest(root: Path, options: Options) -> str:
    """Hash names, sizes and times of the audio files."""
    return tree_digest(root, options)


def read(root: Path, name: str, kind: Kind, options: Options, seed: int) -> Iterator[Utterance]:
    """Yield the responses room by room; the room stands for the speaker, because splits must not share it.

    Raises:
        UserError: There are no rooms.
    """
    require_kind(kind, ("rir",), name)
    folder = corpus_folder(root, name, "simulated_rirs", "simulated_rirs_16k", "simulated_rirs_8k")
    yield from simulated(root, folder, name, options.sizes, options.per_room)


def simulated(root: Path, folder: Path, corpus: str, sizes: Sequence[str], per_room: int) -> Iterator[Utterance]:
    """Yield the responses `<size>/Room001/Room001-00001.wav`, …; OpenSLR 28 and the DNS Challenge hold them, too.

    Raises:
        UserError: A size has no folder.
    """
    for size in sizes:
        if not (folder / size).is_dir():
            raise missing_error(folder, corpus, f"folder {size}")
        taken: dict[str, int] = {}
        for path in find_recordings(folder / size):
            # Each of the three sizes has a Room001.
            room = f"{size}/{path.parent.name}"
            taken[room] = taken.get(room, 0) + 1
            if not per_room or taken[room] <= per_room:
                yield utterance(corpus, "rir", path.relative_to(root).as_posix(), speaker=room)
