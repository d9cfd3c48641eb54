"""DEMAND: noise of 18 places, 5 minutes each, recorded by 16 microphones."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from flowse.audio.recordings import find_recordings
from flowse.data.manifest import Kind, Utterance
from pipelines.corpora import check_names, corpus_folder, missing_error, require_kind, tree_digest, unfit, utterance

LICENCE = "CC-BY-SA-3.0"
_CHANNEL = re.compile(r"ch(\d\d)", re.IGNORECASE)
PLACES = (
    *("DKITCHEN", "DLIVING", "DWASHING", "NFIELD", "NPARK", "NRIVER", "OHALLWAY", "OMEETING", "OOFFICE"),
    *("PCAFETER", "PRESTO", "PSTATION", "SCAFE", "SPSQUARE", "STRAFFIC", "TBUS", "TCAR", "TMETRO"),
)


@dataclass(frozen=True, kw_only=True)
class Options:
    """Settings of DEMAND.

    Attributes:
        channels: Numbers of the microphones, 1 to 16. All 16 record the same 5 minutes: a second one adds little noise.
        places: Read only these places; empty: all.
        leave_out: Places to leave out, e.g. [DLIVING, OOFFICE, PCAFETER, SPSQUARE, TBUS], the test noises of
            VoiceBank-DEMAND.
    """

    channels: Sequence[int] = (1,)
    places: Sequence[str] = ()
    leave_out: Sequence[str] = ()

    def __post_init__(self) -> None:
        if isinstance(self.channels, int) or not self.channels or not set(self.channels) <= set(range(1, 17)):
            raise ValueError(f"channels: {self.channels} must be a list of numbers from 1 to 16")
        for name in ("places", "leave_out"):
            if getattr(self, name):
                check_names(name, getattr(self, name), PLACES)


def holds(root: Path, kind: Kind, options: Options) -> set[str]:
    """Return the one collection."""
    return {"DEMAND"}


def listing_digest(root: Path, options: Options) -> str:
    """Hash names, sizes and times of the audio files."""
    return tree_digest(root, options)


def read(root: Path, name: str, kind: Kind, options: Options, seed: int) -> Iterator[Utterance]:
    """Yield the chosen channels of every place; if a place has several copies (16k, 48k), only the one at 48 kHz.

    Raises:
        UserError: There is no ch01.wav in a folder of its place.
    """
    require_kind(kind, ("noise",), name)
    folder = corpus_folder(root, name, "DEMAND")
    places: dict[str, list[Path]] = {}
    for path in find_recordings(folder):
        channel = _CHANNEL.fullmatch(path.stem)
        if channel and int(channel[1]) in options.channels:
            places.setdefault(path.parent.name, []).append(path)
    if not places:
        raise missing_error(folder, name, "recording <PLACE>/ch01.wav")
    for place in sorted(places):
        copies = sorted({path.parent for path in places[place]}, key=lambda copy: ("48k" not in str(copy), str(copy)))
        for path in places[place]:
            # The channels of a place are one recording, which splits must not share.
            row = utterance(name, kind, path.relative_to(root).as_posix(), speaker=place)
            if place in options.leave_out:
                yield unfit(row, "left_out", f"{place} is in options.leave_out")
            elif options.places and place not in options.places:
                yield unfit(row, "left_out", f"{place} is not in options.places")
            elif path.parent != copies[0]:
                yield unfit(row, "second_copy", f"{place} is taken from {copies[0].relative_to(root)}")
            else:
                yield row
