"""Data folders of Kaldi and ESPnet: wav.scp, and text, utt2spk, utt2lang and segments where they are there."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from flowse.data.manifest import Kind, Split, Utterance, make_utt_id
from flowse.errors import UserError
from pipelines.corpora import corpus_folder, missing_error, paths_digest, unfit, utterance
from pipelines.corpora.languages import canonical

LICENCE = ""
_LISTS = ("wav.scp", "segments", "text", "utt2spk", "utt2lang")
_SPLIT_OF: dict[str, Split] = {
    "train": "train", "tr": "train", "dev": "dev", "valid": "dev", "cv": "dev", "test": "test", "eval": "test",
    "tt": "test",
}  # fmt: skip
_TO_THE_END = -1.0


@dataclass(frozen=True, kw_only=True)
class Options:
    """Settings of data folders; paths are relative to the root, or absolute.

    Attributes:
        data: Data folders below the root, e.g. [data/train, data/dev].
        moved_from: Folder with which the audio paths in wav.scp begin, if that folder is the root now.
        language: Language of utterances that utt2lang does not name.
        use_split: Whether the first word of a data folder's name (train, dev, test, eval, …) decides the split;
            otherwise ingest chooses.
        outside: Whether the audio may lie outside the root.
    """

    data: Sequence[str] = (".",)
    moved_from: str = ""
    language: str = ""
    use_split: bool = True
    outside: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.data, str) or not self.data:
            raise ValueError(f"data: {self.data!r} must be a list of folders, e.g. [data/train]")


@dataclass(frozen=True)
class _Segment:
    """An utterance: a recording, or a stretch of one."""

    utt: str
    recording: str
    start_s: float = 0.0
    end_s: float = _TO_THE_END
    fault: str = ""


@dataclass
class _Column:
    """A list that has one line an utterance, read beside the utterances: both are sorted, as Kaldi demands.

    Attributes:
        path: The list; it may be absent.
        left: Lines whose utterance is not there, as (utterance, value).
    """

    path: Path
    left: list[tuple[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._lines = _sorted_lines(self.path) if self.path.is_file() else iter(())
        self._next: tuple[str, str] | None = next(self._lines, None)

    def value(self, utt: str) -> str:
        """Return what the list says of an utterance; empty: nothing."""
        while self._next is not None and self._next[0] < utt:
            self.left.append(self._next)
            self._next = next(self._lines, None)
        if self._next is None or self._next[0] != utt:
            return ""
        value = self._next[1]
        self._next = next(self._lines, None)
        return value

    def rest(self) -> Iterator[tuple[str, str]]:
        """Yield the lines whose utterance has not come, and forget them."""
        yield from self.left
        self.left.clear()


def listing_digest(root: Path, options: Options) -> str:
    """Hash the sizes and times of the lists, and of the audio files that wav.scp names."""
    lists = [root / folder / name for folder in options.data for name in _LISTS]
    audio = (root / path for folder in options.data for path in _named(root, root / folder / "wav.scp", options))
    return paths_digest(root, options, [path for path in lists if path.is_file()] + list(audio))


def _named(root: Path, path: Path, options: Options) -> Iterator[str]:
    """Yield the audio that a wav.scp names; `read` says what is wrong with a list that cannot be read."""
    try:
        yield from (_relative(value, root, options) for _, value in _sorted_lines(path))
    except (UserError, OSError):
        return


def read(root: Path, name: str, kind: Kind, options: Options, seed: int) -> Iterator[Utterance]:
    """Yield the utterances of the data folders in their order; memory holds the names of a folder's recordings.

    An utterance whose recording or times are wrong, and a line of text without an utterance, are unfit.

    Raises:
        UserError: A list is missing, not sorted or damaged, or wav.scp holds commands or archives.
    """
    corpus_folder(root, name)
    for data in options.data:
        folder = root / data
        if not (folder / "wav.scp").is_file():
            raise missing_error(folder, name, "wav.scp")
        prefix = "" if data in ("", ".") else f"{Path(data).as_posix()}/"
        columns = {of: _Column(folder / of) for of in ("text", "utt2spk", "utt2lang")}
        recordings = {key: _audio(folder / "wav.scp", key, value) for key, value in _sorted_lines(folder / "wav.scp")}
        split = _split(folder.name) if options.use_split else None
        for segment in _segments(folder, recordings):
            said = {of: column.value(segment.utt) for of, column in columns.items()}
            yield from _lonely(name, kind, prefix, columns["text"])
            source = recordings.get(segment.recording)
            language = said["utt2lang"] or (options.language if kind == "speech" else "")
            row = utterance(
                name,
                kind,
                f"{prefix}{segment.utt}" if source is None else _relative(source, root, options, name),
                offset_s=segment.start_s or None,
                text=said["text"],
                duration_s=0.0 if segment.end_s == _TO_THE_END else max(0.0, segment.end_s - segment.start_s),
                speaker=said["utt2spk"] if said["utt2spk"] != segment.utt else "",
                language=canonical(language),
                split=split,
            )
            row = dataclasses.replace(row, utt_id=make_utt_id(name, f"{prefix}{segment.utt}"))
            if source is None:
                detail = f"{prefix}segments: {segment.utt} is of {segment.recording}, which wav.scp does not name"
                yield unfit(row, "not_found", detail)
            else:
                yield unfit(row, "bad_times", segment.fault) if segment.fault else row
        columns["text"].value("\U0010ffff")
        yield from _lonely(name, kind, prefix, columns["text"])


def _lonely(name: str, kind: Kind, prefix: str, texts: _Column) -> Iterator[Utterance]:
    """Yield the texts that have no utterance, as unfit rows."""
    for utt, text in texts.rest():
        row = utterance(name, kind, f"{prefix}{utt}", text=text)
        yield unfit(row, "not_found", f"{prefix}text: {utt} is in neither segments nor wav.scp")


def _segments(folder: Path, recordings: dict[str, str]) -> Iterator[_Segment]:
    """Yield the lines of `segments`, or every recording where there is no such list."""
    path = folder / "segments"
    if not path.is_file():
        yield from (_Segment(recording, recording) for recording in recordings)
        return
    for utt, value in _sorted_lines(path):
        words = value.split()
        try:
            recording, start, end = words[0], float(words[1]), float(words[2])
        except (IndexError, ValueError):
            raise UserError(f"{path}: {utt}: a line is `utterance recording start end`, times in seconds") from None
        if len(words) > 3:
            fault = f"{utt}: channel {words[3]} of {recording}; save the channel as a file"
        elif start < 0 or not (end > start or (end == _TO_THE_END and start == 0)):
            fault = f"{utt}: from {start:g} to {end:g} s of {recording} is no stretch of it"
        else:
            fault = ""
        yield _Segment(utt, recording, max(0.0, start), end, fault)


def _audio(path: Path, key: str, value: str) -> str:
    """Return the file of a line of wav.scp.

    Raises:
        UserError: The line is a command, part of an archive, or empty.
    """
    if value.endswith("|") or value.startswith("|"):
        raise UserError(
            f"{path}: {key} is a command (`{value[:60]}`), and only files are read here; write the audio to files "
            "(ESPnet: scripts/audio/format_wav_scp.sh; Kaldi: wav-copy), and name these"
        )
    if value.rpartition(":")[0].endswith(".ark") or value.endswith(".ark"):
        raise UserError(f"{path}: {key} lies in an archive ({value[:60]}); write the audio to files, and name these")
    if not value:
        raise UserError(f"{path}: {key} names no file")
    return value


def _sorted_lines(path: Path) -> Iterator[tuple[str, str]]:
    """Yield key and value of every line.

    Raises:
        UserError: The file is not UTF-8, or its keys are not sorted as bytes are, or not unique.
    """
    before = ""
    try:
        with path.open(encoding="utf-8-sig") as file:
            for line in file:
                key, _, value = line.strip().replace("\t", " ").partition(" ")
                if not key:
                    continue
                if key <= before:
                    raise UserError(
                        f"{path}: {key} comes after {before}; Kaldi's lists are sorted (LC_ALL=C) and name nothing "
                        "twice: utils/fix_data_dir.sh mends that"
                    )
                before = key
                yield key, value.strip()
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: byte {error.start} is not UTF-8; write the list again") from None


def _split(folder: str) -> Split | None:
    """Return the split that a data folder's name begins with."""
    words = folder.lower().replace("-", "_").split("_")
    return _SPLIT_OF.get(words[0])


def _relative(source: str, root: Path, options: Options, corpus: str = "") -> str:
    """Return the path of a source relative to the root.

    Raises:
        UserError: The source does not lie below the root, and may not.
    """
    path = Path(source)
    if options.moved_from and path.is_relative_to(options.moved_from):
        return path.relative_to(options.moved_from).as_posix()
    for candidate in (path, path.resolve()) if path.is_absolute() else ():
        if candidate.is_relative_to(root):
            return candidate.relative_to(root).as_posix()
    if path.is_absolute() and not options.outside:
        raise UserError(
            f"corpus {corpus!r}: {source} does not lie below the root {root}; take a root that holds all audio, say in "
            "options.moved_from which folder is the root now, or say options.outside: true"
        )
    return path.as_posix()
