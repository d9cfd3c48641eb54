"""OpenSLR 28: measured room impulse responses, noises of those rooms, point-source noises, and all of OpenSLR 26."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from flowse.audio.recordings import find_recordings
from flowse.data.manifest import Kind, Utterance
from pipelines.corpora import check_names, corpus_folder, missing_error, require_kind, tree_digest, utterance
from pipelines.corpora.openslr26 import SIZES, simulated

LICENCE = "Apache-2.0"
REAL, POINT, SIMULATED = "real_rirs_isotropic_noises", "pointsource_noises", "simulated_rirs"
_ROOM = (
    re.compile(r"(RVB2014)_type\d+_(?:rir|noise)_([a-z]+\d+)"),
    re.compile(r"(RWCP)_type\d+_(?:rir|noise)_(?:circle|cirline)_([a-z0-9]+)"),
    re.compile(r"(RWCP)_(type4)_rir"),
    re.compile(r"(air)_type\d+_air_(?:binaural|phone)_(?:bt_)?([a-z]+(?:_[a-z]+)*?)\d*_(?:\d|hfrp|hhp)", re.IGNORECASE),
)


@dataclass(frozen=True, kw_only=True)
class Options:
    """Settings of OpenSLR 28.

    Attributes:
        real: Read the 325 measured responses (RWCP, REVERB 2014, Aachen), or the noises of those rooms.
        simulated: Read the 60,000 simulated responses of OpenSLR 26.
        pointsource: Read the 843 point-source noises (from Freesound, as in MUSAN).
        sizes: Sizes of simulated rooms to read: smallroom, mediumroom, largeroom.
        per_room: Simulated responses to read of the 100 of every room; 0: all.
    """

    real: bool = True
    simulated: bool = True
    pointsource: bool = True
    sizes: Sequence[str] = SIZES
    per_room: int = 0

    def __post_init__(self) -> None:
        check_names("sizes", self.sizes, SIZES)
        if self.per_room < 0:
            raise ValueError(f"per_room is {self.per_room}; it must be 0 (all) or more")


def holds(root: Path, kind: Kind, options: Options) -> set[str]:
    """Return the collections that the options choose."""
    real = {f"OpenSLR 28 measured {kind}"} if options.real else set()
    if kind == "noise":
        return real | ({"OpenSLR 28 point-source noises"} if options.pointsource else set())
    return real | ({f"OpenSLR 26 {size}" for size in options.sizes} if options.simulated else set())


def listing_digest(root: Path, options: Options) -> str:
    """Hash names, sizes and times of the audio files."""
    return tree_digest(root, options)


def read(root: Path, name: str, kind: Kind, options: Options, seed: int) -> Iterator[Utterance]:
    """Yield the responses or the noises; the room, or the recording of a point source, stands for the speaker.

    lhotse's recipe is not used: it opens all 61,000 files, and does not say which of them share a room.

    Raises:
        UserError: A chosen part is missing.
    """
    require_kind(kind, ("rir", "noise"), name)
    folder = corpus_folder(root, name, "RIRS_NOISES")
    if options.real:
        yield from measured(root, folder / REAL, name, kind)
    if kind == "noise" and options.pointsource:
        yield from pointsource(root, folder / POINT, name)
    if kind == "rir" and options.simulated:
        yield from simulated(root, folder / SIMULATED, name, options.sizes, options.per_room)


def measured(root: Path, folder: Path, corpus: str, kind: Kind) -> Iterator[Utterance]:
    """Yield the measured responses, or the noises recorded in the same rooms.

    Raises:
        UserError: The folder is missing.
    """
    if not folder.is_dir():
        raise missing_error(folder.parent, corpus, f"folder {folder.name}")
    for path in find_recordings(folder):
        # The names of Aachen's responses do not hold "rir"; the names of all noises hold "noise".
        if ("_noise_" in path.name) == (kind == "noise"):
            yield utterance(corpus, kind, path.relative_to(root).as_posix(), speaker=room_of(path.stem))


def pointsource(root: Path, folder: Path, corpus: str) -> Iterator[Utterance]:
    """Yield the point-source noises.

    Raises:
        UserError: The folder is missing.
    """
    if not folder.is_dir():
        raise missing_error(folder.parent, corpus, f"folder {folder.name}")
    for path in find_recordings(folder):
        yield utterance(corpus, "noise", path.relative_to(root).as_posix(), speaker=path.stem)


def room_of(stem: str) -> str:
    """Return the room that the name of a measured recording states, else the name itself."""
    for pattern in _ROOM:
        if found := pattern.match(stem):
            return f"{found[1]} {found[2]}"
    return stem
