"""VCTK: 44 h of 110 English speakers at two microphones, in the layout of version 0.92 (flac) or 0.80 (wav)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Literal

from flowse.audio.recordings import find_files, find_recordings
from flowse.data.manifest import Kind, Utterance
from pipelines.corpora import check_names, corpus_folder, missing_error, require_kind, tree_digest, utterance

LICENCE = "CC-BY-4.0"
_AUDIO = ("wav48_silence_trimmed", "wav48")
_NAME = re.compile(r"(?P<utterance>.+?)(?:_(?P<microphone>mic[12]))?", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Options:
    """Settings of VCTK.

    Attributes:
        microphone: Microphone of version 0.92; mic2 has less rumble. The other one is read where a recording lacks it
            (p280 and p315 have no mic2), so that every utterance is read once.
        speakers: Read only these speakers; empty: all.
        leave_out: Speakers to leave out, e.g. [p232, p257], the test speakers of VoiceBank-DEMAND.
    """

    microphone: Literal["mic1", "mic2"] = "mic2"
    speakers: Sequence[str] = ()
    leave_out: Sequence[str] = ()

    def __post_init__(self) -> None:
        check_names("microphone", [self.microphone], ("mic1", "mic2"))
        for name in ("speakers", "leave_out"):
            value = getattr(self, name)
            if isinstance(value, str) or not all(re.fullmatch(r"[ps]\d+", speaker) for speaker in value):
                raise ValueError(f"{name}: {value} must be a list of speakers, e.g. [p232, p257]")

    def takes(self, speaker: str) -> bool:
        """Return whether the options choose a speaker."""
        return speaker not in self.leave_out and (not self.speakers or speaker in self.speakers)


def holds(root: Path, kind: Kind, options: Options) -> set[str]:
    """Return the one collection."""
    return {"VCTK"}


def listing_digest(root: Path, options: Options) -> str:
    """Hash names, sizes and times of the audio files and of the transcripts."""
    return tree_digest(root, options, *find_files(root, (".txt",)))


def read(root: Path, name: str, kind: Kind, options: Options, seed: int) -> Iterator[Utterance]:
    """Yield every utterance once, speaker by speaker; those without a transcript (all of p315) have no text.

    lhotse's recipe is not used: it opens all 88,000 files and drops p315, and p280 for mic2.

    Raises:
        UserError: There is no folder of recordings.
    """
    require_kind(kind, ("speech",), name)
    folder = corpus_folder(root, name, "VCTK-Corpus-0.92", "VCTK-Corpus")
    audio = next((folder / name for name in _AUDIO if (folder / name).is_dir()), None)
    if audio is None:
        raise missing_error(folder, name, f"folder {' or '.join(_AUDIO)}")
    texts = _texts(folder / "txt")
    yield from recordings(root, audio, texts, name, kind, options)


def recordings(
    root: Path, audio: Path, texts: dict[str, Path], name: str, kind: Kind, options: Options
) -> Iterator[Utterance]:
    """Yield the utterances below the folder of all speakers, then the transcripts that have no recording."""
    suffix = ".flac"
    found: set[str] = set()
    for (parent, stem), group in groupby(find_recordings(audio), key=lambda path: (path.parent, _stem(path))):
        takes = {_microphone(path): path for path in group}
        path = takes.get(options.microphone) or next(iter(takes.values()))
        found.add(stem.lower())
        suffix = path.suffix
        # The folder names the speaker: the files of speaker s5 begin with s5_, those of all others with p.
        if options.takes(parent.name):
            yield _row(root, path, parent.name, texts.get(stem.lower()), name, kind)
    microphone = f"_{options.microphone}" if audio.name == _AUDIO[0] else ""
    for stem, text in sorted(texts.items()):
        speaker = text.parent.name
        if stem not in found and options.takes(speaker):
            missing = audio / speaker / f"{text.stem}{microphone}{suffix}"
            yield _row(root, missing, speaker, text, name, kind)


def _row(root: Path, path: Path, speaker: str, text: Path | None, name: str, kind: Kind) -> Utterance:
    transcript = " ".join(text.read_text(encoding="utf-8", errors="replace").split()) if text else ""
    relative = path.relative_to(root).as_posix()
    return utterance(name, kind, relative, text=transcript, language="en", speaker=speaker)


def _parsed(path: Path) -> re.Match[str]:
    parsed = _NAME.fullmatch(path.stem)
    assert parsed is not None, "the pattern matches every name"
    return parsed


def _stem(path: Path) -> str:
    return _parsed(path)["utterance"]


def _microphone(path: Path) -> str:
    return (_parsed(path)["microphone"] or "").lower()


def _texts(folder: Path) -> dict[str, Path]:
    """Return the files of the transcripts by utterance."""
    return {path.stem.lower(): path for path in find_files(folder, (".txt",))}
