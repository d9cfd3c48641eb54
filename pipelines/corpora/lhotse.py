"""Manifests of lhotse: a `CutSet`, or recordings and supervisions, as any recipe of lhotse writes them."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flowse.data.manifest import SPLITS, Kind, Utterance, make_utt_id
from flowse.errors import UserError
from pipelines.corpora import corpus_folder, paths_digest, unfit
from pipelines.corpora.languages import canonical

LICENCE = ""
_SOURCE = re.compile(r'"source"\s*:\s*("(?:[^"\\]|\\.)*")')


@dataclass(frozen=True, kw_only=True)
class Options:
    """Settings of manifests of lhotse; paths are relative to the root, or absolute.

    Attributes:
        cuts: A CutSet. Every supervision becomes a row; a cut without supervisions becomes a row, too.
        recordings: A RecordingSet, instead of cuts.
        supervisions: The SupervisionSet of these recordings: every supervision becomes a row. Empty: every recording
            becomes a row.
        moved_from: Folder with which the audio paths in the manifests begin, if that folder is the root now.
        language: Language of supervisions that name none.
        use_split: Whether a custom field `split` (train, dev, test) counts; otherwise ingest chooses the split.
        outside: Whether the audio may lie outside the root.
    """

    cuts: str = ""
    recordings: str = ""
    supervisions: str = ""
    moved_from: str = ""
    language: str = ""
    use_split: bool = True
    outside: bool = field(default=False, metadata={"fingerprint": "unless default"})

    def __post_init__(self) -> None:
        if bool(self.cuts) == bool(self.recordings):
            raise ValueError("cuts, recordings: name one of them, e.g. cuts: cuts.jsonl.gz")
        if self.supervisions and not self.recordings:
            raise ValueError("supervisions: needs `recordings`; cuts hold theirs")


@dataclass(frozen=True)
class _Segment:
    """A segment of a recording, and what its manifest states about it."""

    name: str
    recording: Any
    channels: Any
    offset_s: float
    duration_s: float
    supervision: Any
    custom: Mapping[str, Any]


def listing_digest(root: Path, options: Options) -> str:
    """Hash the sizes and times of the manifests, and of the audio files that they name."""
    manifests = [root / name for name in (options.cuts, options.recordings, options.supervisions) if name]
    return paths_digest(root, options, (*manifests, *_named(root, options, manifests[0])))


def _named(root: Path, options: Options, manifest: Path) -> Iterator[Path]:
    """Yield the audio files that a manifest names; `read` says what is wrong with one that cannot be read.

    The text of JSON is searched, because lhotse takes ten times as long to build its objects.
    """
    seen: set[str] = set()
    try:
        for source in _sources(manifest):
            if source not in seen:
                seen.add(source)
                moved = options.moved_from and Path(source).is_relative_to(options.moved_from)
                yield root / (Path(source).relative_to(options.moved_from) if moved else source)
    except (UserError, OSError, EOFError, ValueError):
        return


def _sources(manifest: Path) -> Iterator[str]:
    if not manifest.name.endswith((".jsonl", ".jsonl.gz", ".json", ".json.gz")):
        for item in _items(manifest, ""):
            recording = getattr(item, "recording", item)
            yield from (str(source.source) for source in getattr(recording, "sources", ()))
        return
    with (
        gzip.open(manifest, "rt", encoding="utf-8") if manifest.suffix == ".gz" else manifest.open(encoding="utf-8")
    ) as file:
        for line in file:
            yield from (json.loads(found) for found in _SOURCE.findall(line))


def read(root: Path, name: str, kind: Kind, options: Options, seed: int) -> Iterator[Utterance]:
    """Yield the segments of the manifests in their order; those that cannot be read as lhotse reads them are unfit.

    JSONL is read line by line; only a RecordingSet is held in memory, and only if there are supervisions.

    Raises:
        UserError: A manifest is missing or damaged, or its audio lies outside the root.
    """
    corpus_folder(root, name)
    for segment in _segments(root, name, options):
        if isinstance(segment, str):
            row = Utterance(utt_id=make_utt_id(name, segment), corpus=name, kind=kind, path=segment)
            yield unfit(row, "not_a_recording", f"{segment}: is mixed or padded from others; export its parts instead")
        else:
            yield _row(root, name, kind, options, segment)


def _segments(root: Path, name: str, options: Options) -> Iterator[_Segment | str]:
    """Yield the segments of the manifests, and the ids of cuts that are no segment of a recording."""
    if options.recordings and options.supervisions:
        recordings = {recording.id: recording for recording in _items(root / options.recordings, name)}
        for label in _items(root / options.supervisions, name):
            if label.recording_id not in recordings:
                raise UserError(
                    f"{root / options.supervisions}: {label.id} belongs to {label.recording_id}, which "
                    f"{options.recordings} does not hold; give the manifests that belong together"
                )
            recording = recordings[label.recording_id]
            yield _Segment(label.id, recording, label.channel, label.start, label.duration, label, label.custom or {})
    elif options.recordings:
        for recording in _items(root / options.recordings, name):
            yield _Segment(recording.id, recording, recording.channel_ids, 0.0, recording.duration, None, {})
    else:
        for cut in _items(root / options.cuts, name):
            if not getattr(cut, "has_recording", False) or not hasattr(cut, "recording"):
                yield str(cut.id)
                continue
            custom = cut.custom or {}
            if not cut.supervisions:
                yield _Segment(cut.id, cut.recording, cut.channel, cut.start, cut.duration, None, custom)
            for label in cut.supervisions:
                begin, end = max(label.start, 0.0), min(label.end, cut.duration)
                both = {**custom, **(label.custom or {})}
                yield _Segment(label.id, cut.recording, label.channel, cut.start + begin, end - begin, label, both)


def _items(path: Path, corpus: str) -> Iterator[Any]:
    """Yield the items of a manifest.

    Raises:
        UserError: The manifest is missing or damaged.
    """
    if not path.is_file():
        raise UserError(f"{path}: the manifest of corpus {corpus!r} is missing; mend its options")
    from lhotse.serialization import load_manifest_lazy_or_eager

    try:
        yield from load_manifest_lazy_or_eager(path) or ()
    except (ValueError, KeyError, TypeError, AttributeError, AssertionError, EOFError, OSError) as error:
        raise UserError(f"{path}: is damaged, or no manifest of lhotse's: {error!r}; write it again") from None


def _row(root: Path, name: str, kind: Kind, options: Options, segment: _Segment) -> Utterance:
    """Return the row of a segment; it is marked as unfit if its audio cannot be read as lhotse reads it."""
    label, custom = segment.supervision, segment.custom
    source = segment.recording.sources[0].source
    is_file = segment.recording.sources[0].type == "file"
    text = (label.text or "") if label else ""
    row = Utterance(
        utt_id=make_utt_id(name, segment.name),
        corpus=name,
        kind=kind,
        path=_relative(str(source), root, name, options) if is_file else segment.name,
        offset_s=float(segment.offset_s),
        duration_s=float(segment.duration_s),
        speaker=(label.speaker if label else None) or custom.get("speaker") or "",
        split=next((split for split in SPLITS if options.use_split and custom.get("split") == split), None),
        licence=custom.get("licence") or "",
        language=canonical((label.language if label else None) or (options.language if kind == "speech" else "")),
        language_prob=custom.get("language_prob"),
        text=text,
        text_source=(custom.get("text_source") or "corpus") if text else "",
        text_logprob=custom.get("text_logprob"),
    )
    reason = _why_unfit(segment, is_file)
    return unfit(row, *reason) if reason else row


def _why_unfit(segment: _Segment, is_file: bool) -> tuple[str, str] | None:
    """Return reason and detail if the audio of a segment would differ here from what lhotse reads, else None."""
    name, recording = segment.name, segment.recording
    channels = segment.channels if isinstance(segment.channels, list) else [segment.channels]
    if not is_file or len(recording.sources) > 1:
        return "not_one_file", f"{name}: its audio is no file, or several; write it to one"
    if recording.transforms:
        return "transformed", f"{name}: lhotse would change its speed, rate or level; save the changed audio"
    if len(channels) < recording.num_channels:
        chosen = ", ".join(map(str, channels))
        return "one_of_the_channels", f"{name}: channel {chosen} of {recording.num_channels}; save it as a file"
    if segment.duration_s <= 0:
        return "too_short", f"{name}: lies outside its cut"
    return None


def _relative(source: str, root: Path, corpus: str, options: Options) -> str:
    """Return the path of a source relative to the root.

    Raises:
        UserError: The source does not lie below the root.
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
