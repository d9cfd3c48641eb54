"""Corpora of tar files as webdataset has them: samples of members of equal stem, of which one is a recording.

A recording is read where it lies: no tar is unpacked. It is named by tar and member (`a-000.tar/x.flac`), and known by
the content of the member, so that a tar that is written anew with the same members changes nothing after ingest.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flowse.audio.recordings import AUDIO_SUFFIXES, find_files
from flowse.data.manifest import SPLITS, Kind, Split, Utterance
from flowse.names import is_text, readable, why_unsafe
from pipelines.corpora import Unfit, corpus_folder, missing_error, paths_digest, unfit, utterance
from pipelines.corpora.languages import canonical
from pipelines.engine.archives import Archive, Contents, Member

LICENCE = ""
_TARS = (".tar",)
_PACKED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
_AT_ONCE = 8


@dataclass(frozen=True, kw_only=True)
class Options:
    """Settings of a corpus of tar files; all tars below the root are read.

    Attributes:
        audio: Ending of the recordings, e.g. "flac" or "clean.flac", which samples with several recordings need; empty:
            the only member of a sample whose name ends as a recording's.
        text: Key of the transcript in a sample's JSON; a sample without it has the content of its `.txt`, if any.
        speaker: Key of the speaker in a sample's JSON.
        language_column: Key of the language in a sample's JSON.
        language: Language of samples that name none.
        use_split: Whether the beginning of a tar's name (train, dev, validation, test), or of a folder's above it,
            decides the split; otherwise ingest chooses.
    """

    audio: str = ""
    text: str = "text"
    speaker: str = "speaker"
    language_column: str = "language"
    language: str = ""
    use_split: bool = True


def listing_digest(root: Path, options: Options) -> str:
    """Hash names, sizes and times of the tars."""
    return paths_digest(root, options, find_files(root, (*_TARS, *_PACKED)))


def read(root: Path, name: str, kind: Kind, options: Options, seed: int) -> Iterator[Utterance]:
    """Yield a row for every sample of the tars, in their order; the tars' headers are read, and their short texts.

    Samples without a recording, or with several, and damaged stretches of a tar are unfit rows.

    Raises:
        UserError: There is no tar file.
    """
    corpus_folder(root, name)
    tars = list(find_files(root, _TARS))
    packed = list(find_files(root, _PACKED))
    if not tars and not packed:
        raise missing_error(root, name, "tar file")
    for path in packed:
        tar = path.relative_to(root).as_posix()
        yield unfit(
            utterance(name, kind, tar), "damaged_archive", f"{tar}: it is packed as a whole; unpack it to a plain tar"
        )
    for path, found in _contents_ahead(tars):
        tar = path.relative_to(root).as_posix()
        split = _split(tar) if options.use_split else None
        for begin, fault in found.faults:
            row = utterance(name, kind, f"{tar}@{begin}")
            yield unfit(row, "damaged_archive", f"{tar}: {fault}; fetch it again, or write it anew")
        for sample in _samples(found.members):
            yield from _rows(name, kind, tar, sample, options, split)


def _contents_ahead(tars: Sequence[Path]) -> Iterator[tuple[Path, Contents]]:
    """Yield what is in each tar; some are read at the same time: of those in a store each header is a request."""
    waiting: deque[tuple[Path, Future[Contents]]] = deque()
    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="tars") as pool:
        try:
            for path in tars:
                waiting.append((path, pool.submit(_contents, path)))
                if len(waiting) > _AT_ONCE:
                    tar, found = waiting.popleft()
                    yield tar, found.result()
            while waiting:
                tar, found = waiting.popleft()
                yield tar, found.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _contents(path: Path) -> Contents:
    try:
        return Archive(path).contents()
    except OSError as error:  # a dead link, a file that nobody may read, or one that is gone meanwhile
        return Contents((), ((0, f"cannot be read ({error.strerror})"),))


def _samples(members: Iterable[Member]) -> Iterator[tuple[str, list[tuple[str, Member]]]]:
    """Yield the stem of each sample, and its members with their endings; they are neighbours in the tar."""
    stem, sample = "", list[tuple[str, Member]]()
    for member in members:
        folder, slash, name = member.name.rpartition("/")
        if any(
            part.startswith(".") or part == "__MACOSX" for part in member.name.split("/") if part not in (".", "..")
        ):
            continue
        begin, _, ending = name.partition(".")
        if f"{folder}{slash}{begin}" != stem and sample:
            yield stem, sample
            sample = []
        stem = f"{folder}{slash}{begin}"
        sample.append((ending.lower(), member))
    if sample:
        yield stem, sample


def _rows(
    name: str, kind: Kind, tar: str, sample: tuple[str, list[tuple[str, Member]]], options: Options, split: Split | None
) -> Iterator[Utterance]:
    """Yield the row of a sample; of one that cannot be used an unfit one, of members that say nothing none."""
    stem, members = sample
    said, fault = _said(members, options)
    text, speaker, language = (said.get(key, "") for key in (options.text, options.speaker, options.language_column))
    recordings = [member for ending, member in members if _is_recording(ending, options)]

    def row_of(path: str) -> Utterance:
        spoken = canonical(language or (options.language if kind == "speech" else ""))
        return utterance(name, kind, f"{tar}/{path}", text=text, speaker=speaker, language=spoken, split=split)

    def refused(path: str, reason: str, why: str) -> Unfit:
        return unfit(row_of(path), reason, f"{tar}/{readable(path)}: {why}")

    if len(recordings) != 1:
        if recordings:
            endings = ", ".join(sorted(ending for ending, member in members if member in recordings))
            yield refused(stem, "several_recordings", f"has {endings}; say which in options.audio")
        elif any(ending.endswith(("json", "txt")) for ending, _ in members):
            wanted = f"recording .{options.audio}" if options.audio else "recording"
            yield refused(stem, "not_found", f"has no {wanted}, only {', '.join(ending for ending, _ in members)}")
        return
    (member,) = recordings
    if is_text(member.name) and (why := why_unsafe(member.name)):
        yield refused(member.name, "bad_path", f"{why}; rename the member")
    elif member.fault:
        yield refused(member.name, "damaged_archive", member.fault)
    elif fault:
        yield refused(member.name, "bad_metadata", fault)
    else:
        yield row_of(member.name)


def _is_recording(ending: str, options: Options) -> bool:
    if options.audio:
        return ending == options.audio.lower().removeprefix(".")
    return f".{ending}".endswith(AUDIO_SUFFIXES)


def _said(members: Iterable[tuple[str, Member]], options: Options) -> tuple[dict[str, str], str]:
    """Return what a sample's JSON and text say, by key, and what is wrong with them; empty: nothing."""
    said: dict[str, str] = {}
    plain, fault = "", ""
    for ending, member in members:
        if member.text is None:
            continue
        if not is_text(member.text):
            fault = fault or f"{readable(member.name)} is not UTF-8"
        elif ending == "txt":
            plain = " ".join(member.text.split())
        elif ending == "json":
            try:
                content: Any = json.loads(member.text)
            except (ValueError, RecursionError) as error:
                fault = fault or f"{member.name} is no JSON ({error})"
                continue
            if not isinstance(content, dict):
                fault = fault or f"{member.name} is a {type(content).__name__}, not an object"
                continue
            said |= {key: str(value) for key, value in content.items() if isinstance(value, str | int | float)}
    if plain and not said.get(options.text):
        said[options.text] = plain
    return said, fault


def _split(tar: str) -> Split | None:
    """Return the split that the name of a tar begins with, or that of a folder above it."""
    for part in reversed(tar.lower().split("/")):
        begin = part.replace("validation", "dev").replace("valid", "dev")
        if (found := next((split for split in SPLITS if begin.startswith(split)), None)) is not None:
            return found
    return None
