"""Training data of the DNS Challenge (2020 to 2023): clean speech from many sources, noise, impulse responses."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from flowse.audio.recordings import find_recordings
from flowse.data.manifest import Kind, Utterance
from pipelines.corpora import (
    check_names,
    corpus_folder,
    missing_error,
    openslr26,
    openslr28,
    tree_digest,
    unfit,
    utterance,
    vctk,
)

LICENCE = "each source's own, see DNS-Challenge/README.md"
_CLEAN = ("datasets_fullband/clean_fullband", "clean_fullband", "datasets/clean", "clean")
_NOISE = ("datasets_fullband/noise_fullband", "noise_fullband", "datasets/noise", "noise")
_RIRS = ("datasets_fullband/impulse_responses", "impulse_responses", "datasets/impulse_responses")
_VCTK = "vctk_wav48_silence_trimmed"

_LANGUAGES = {
    "": "en",
    "read": "en",
    "emotional": "en",
    "vctk": "en",
    "english": "en",
    "mandarin": "zh",
    "french": "fr",
    "german": "de",
    "italian": "it",
    "russian": "ru",
    "spanish": "es",
}
"""Languages by the first word of a part's name; "" is the folder without parts of 2020."""

_LICENCES = {
    "": "public domain (LibriVox)",
    "read": "public domain (LibriVox)",
    "emotional": "DbCL-1.0",
    "VocalSet": "CC-BY-4.0",
    "singing": "CC-BY-4.0",
    "vctk": vctk.LICENCE,
}

_SPEAKER = tuple(
    re.compile(pattern)
    for pattern in (
        r"(reader_\d+)",
        # M-AILABS: <female|male>/<speaker>/<book>; a book in `mix` names no reader, and stands for all its readers.
        r"M-AILABS_Speech_Dataset/[^/]+/(?:fe)?male/([^/]+)/",
        r"M-AILABS_Speech_Dataset/[^/]+/(mix/[^/]+)/",
        # Spoken Wikipedia names the article, which has one reader.
        r"(?:^|/)(German_Wikipedia_[^/]+?)_audio\d*_[^/]*$",
        r"(?:^|/)(SLR39_\d+)_\d+_[^/]*$",
        r"(?:^|/)SLR39_(?:non)?native-[^/]*-([a-z]{3}\d+)_[^/]*$",
        r"(?:^|/)SLR\d+_es[-_][a-z]{2}_(?:(?:fe)?male_)?([a-z]{3}_\d{5})_[^/]*$",
        # CREMA-D, VocalSet, AISHELL, THCHS-30.
        r"(?:^|/)(\d{4})_[A-Z]{3}_[A-Z]{3}_[A-Z0-9]{2}[^/]*$",
        r"(?:^|/)(vocalset_(?:fe)?male\d+)_[^/]*$",
        r"(?:^|/)[^/]*(S\d{4})W\d{4}[^/]*$",
        r"(?:^|/)([A-D]\d{1,2})_\d{1,3}[^/]*$",
    )
)
_FREESOUND = re.compile(r"[^/]*?(Freesound)_validated_(\d+)_\d+$", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Options:
    """Settings of the DNS Challenge.

    Attributes:
        parts: Folders of clean speech to read (read_speech, mandarin_speech, …); empty: those that are there.
        leave_out: Folders of clean speech to leave out, e.g. [vctk_wav48_silence_trimmed] beside the corpus VCTK.
        leave_out_speakers: Speakers of VCTK to leave out, e.g. [p232, p257], the test speakers of VoiceBank-DEMAND.
        real: Read the measured impulse responses of OpenSLR 28.
        simulated: Read the simulated impulse responses of OpenSLR 26.
        sizes: Sizes of simulated rooms to read: smallroom, mediumroom, largeroom.
        per_room: Simulated responses to read of the 100 of every room; 0: all.
    """

    parts: Sequence[str] = ()
    leave_out: Sequence[str] = ()
    leave_out_speakers: Sequence[str] = ()
    real: bool = True
    simulated: bool = True
    sizes: Sequence[str] = openslr26.SIZES
    per_room: int = 0

    def __post_init__(self) -> None:
        vctk.Options(leave_out=self.leave_out_speakers)
        for key in ("parts", "leave_out"):
            if isinstance(getattr(self, key), str):
                raise ValueError(f"{key}: {getattr(self, key)!r} must be a list, [{getattr(self, key)}]")
        check_names("sizes", self.sizes, openslr26.SIZES)
        if self.per_room < 0:
            raise ValueError(f"per_room is {self.per_room}; it must be 0 (all) or more")


def _find(root: Path, corpus: str, places: Sequence[str]) -> Path:
    """Return the first of several folders that exists; fullband comes first, as wideband is the same at 16 kHz.

    Raises:
        UserError: None of them exists.
    """
    folder = corpus_folder(root, corpus, "DNS-Challenge")
    found = next((folder / place for place in places if (folder / place).is_dir()), None)
    if found is None:
        raise missing_error(folder, corpus, f"folder {', '.join(places)}")
    return found


def _parts(clean: Path, options: Options) -> list[str]:
    """Return the chosen folders of clean speech; "" stands for the files that lie in no folder, as in 2020."""
    there = sorted(path.name for path in clean.iterdir() if path.is_dir() and path.name[0] not in "._")
    return [part for part in options.parts or ["", *there] if part not in options.leave_out]


def holds(root: Path, kind: Kind, options: Options) -> set[str]:
    """Return the collections that are there and that the options choose."""
    if kind == "noise" or not root.is_dir():
        return set()
    if kind == "speech":
        return {"VCTK"} if _VCTK in _parts(_find(root, "dns", _CLEAN), options) else set()
    sizes = {f"OpenSLR 26 {size}" for size in options.sizes} if options.simulated else set()
    return sizes | ({"OpenSLR 28 measured rir"} if options.real else set())


def listing_digest(root: Path, options: Options) -> str:
    """Hash names, sizes and times of the audio files."""
    return tree_digest(root, options)


def read(root: Path, name: str, kind: Kind, options: Options, seed: int) -> Iterator[Utterance]:
    """Yield the clean speech part by part, or the noises, or the impulse responses; lhotse has no recipe for them.

    The test sets are never read: name them in evaluate.pairs.

    Raises:
        UserError: The folder or a chosen part is missing.
    """
    if kind == "speech":
        yield from _speech(root, _find(root, name, _CLEAN), name, options)
    elif kind == "noise":
        for path in find_recordings(_find(root, name, _NOISE)):
            freesound = _FREESOUND.match(path.stem)
            yield utterance(
                name,
                kind,
                path.relative_to(root).as_posix(),
                # Recordings of Freesound are cut into numbered pieces; each clip of AudioSet is a recording of its own.
                speaker=f"{freesound[1]}_{freesound[2]}" if freesound else "",
                licence="CC0-1.0" if freesound else "CC-BY-4.0",
            )
    else:
        yield from _rirs(root, _find(root, name, _RIRS), name, options)


def _speech(root: Path, clean: Path, name: str, options: Options) -> Iterator[Utterance]:
    parts = _parts(clean, options)
    for part in sorted({*options.parts, *options.leave_out}):
        if not (clean / part).is_dir():
            raise missing_error(clean, name, f"folder {part}")
    for part in parts:
        word = part.split("_")[0]
        licence = _LICENCES.get(word, LICENCE)
        if part == _VCTK:
            vctk_options = vctk.Options(leave_out=options.leave_out_speakers)
            for row in vctk.recordings(root, clean / part, {}, name, "speech", vctk_options):
                yield dataclasses.replace(row, licence=licence)
            continue
        for path in find_recordings(clean / part, deep=bool(part)):
            inside = path.relative_to(clean)
            row = utterance(
                name,
                "speech",
                path.relative_to(root).as_posix(),
                language=_LANGUAGES.get(word, ""),
                speaker=speaker_of(inside.as_posix()),
                licence=licence,
            )
            # Some downloads hold a second copy of read_speech inside read_speech.
            original = clean.joinpath(part, *inside.parts[2:])
            if inside.parts[:2] == (part, part) and original.is_file():
                yield unfit(row, "second_copy", f"{row.path} is the same as {original.relative_to(root)}")
            else:
                yield row


def speaker_of(path: str) -> str:
    """Return the speaker that a path below the folder of clean speech names; empty if it names none."""
    return next((found[1] for pattern in _SPEAKER if (found := pattern.search(path))), "")


def _rirs(root: Path, folder: Path, name: str, options: Options) -> Iterator[Utterance]:
    slr26 = next((path for path in sorted(folder.glob("SLR26/*")) if (path / openslr26.SIZES[0]).is_dir()), None)
    slr28 = folder / "SLR28" / "RIRS_NOISES"
    if options.real:
        yield from _with_licence(openslr28.measured(root, slr28 / openslr28.REAL, name, "rir"))
    if not options.simulated:
        return
    if slr26 is not None:
        yield from _with_licence(openslr26.simulated(root, slr26, name, options.sizes, options.per_room))
    if not (slr28 / openslr28.SIMULATED).is_dir():
        if slr26 is None:
            raise missing_error(folder, name, "simulated responses in SLR26 or SLR28")
        return
    for row in _with_licence(
        openslr26.simulated(root, slr28 / openslr28.SIMULATED, name, options.sizes, options.per_room)
    ):
        copy = slr26 and slr26 / row.speaker / Path(row.path).name
        if copy and copy.is_file():
            yield unfit(row, "second_copy", f"{row.path} is the same as {copy.relative_to(root)}")
        else:
            yield row


def _with_licence(rows: Iterator[Utterance]) -> Iterator[Utterance]:
    return (dataclasses.replace(row, licence=openslr28.LICENCE) for row in rows)
