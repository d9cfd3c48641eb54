"""lhotse's manifests: a `CutSet`, or recordings and supervisions, as any lhotse recipe writes them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flowse.data.manifest import SPLITS, Kind, Utterance, make_utt_id
from flowse.errors import UserError
from pipelines.corpora import corpus_folder, paths_digest, unfit
from pipelines.corpora.languages import canonical

LICENCE = ""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Settings of lhotse's manifests; paths are relative to the root, or absolute.

    Attributes:
        cuts: A CutSet. Every supervision becomes a row; a cut without one becomes a row itself.
        recordings: A RecordingSet, instead of cuts.
        supervisions: The SupervisionSet of these recordings: every one becomes a row. Empty: every recording does.
        moved_from: Folder that the manifests' audio paths begin with, if it lies at the root now.
        language: Language of supervisions that name none.
        use_split: Whether a custom field `split` (train, dev, test) counts; else ingest decides.
    """

    cuts: str = ""
    recordings: str = ""
    supervisions: str = ""
    moved_from: str = ""
    language: str = ""
    use_split: bool = True

    def __post_init__(self) -> None:
        if bool(self.cuts) == bool(self.recordings):
            raise ValueError("cuts, recordings: name one of them, e.g. cuts: cuts.jsonl.gz")
        if self.supervisions and not self.recordings:
            raise ValueError("supervisions: needs `recordings`; cuts hold theirs")


@dataclass(frozen=True)
class _Stretch:
    """A stretch of a recording, and what its manifest says of it."""

    name: str
    recording: Any
    channels: Any
    offset_s: float
    duration_s: float
    supervision: Any
    custom: Mapping[str, Any]


def listing_digest(root: Path, options: Options) -> str:
    """Hash the manifests' sizes and times; the audio may lie anywhere."""
    named = (options.cuts, options.recordings, options.supervisions)
    return paths_digest(root, options, [root / name for name in named if name])


def read(root: Path, name: str, kind: Kind, options: Options, seed: int) -> Iterator[Utterance]:
    """Yield the manifests' stretches in their order; what this program cannot read as lhotse would is refused.

    JSONL is read line by line; only a RecordingSet is held in memory, and only beside supervisions.

    Raises:
        UserError: A manifest is missing or damaged, or its audio lies outside the root.
    """
    corpus_folder(root, name)
    for one in _stretches(root, name, options):
        if isinstance(one, str):
            row = Utterance(utt_id=make_utt_id(name, one), corpus=name, kind=kind, path=one)
            yield unfit(row, "not_a_recording", f"{one}: is mixed or padded from others; export its parts instead")
            continue
        yield from _rows(root, name, kind, options, one)


def _stretches(root: Path, name: str, options: Options) -> Iterator[_Stretch | str]:
    """Yield stretches; of a cut that is none, its id."""
    if options.recordings and options.supervisions:
        recordings = {one.id: one for one in _items(root / options.recordings, name)}
        for said in _items(root / options.supervisions, name):
            if said.recording_id not in recordings:
                raise UserError(
                    f"{root / options.supervisions}: {said.id} belongs to {said.recording_id}, which "
                    f"{options.recordings} does not hold; give the manifests that belong together"
                )
            recording = recordings[said.recording_id]
            yield _Stretch(said.id, recording, said.channel, said.start, said.duration, said, said.custom or {})
    elif options.recordings:
        for one in _items(root / options.recordings, name):
            yield _Stretch(one.id, one, one.channel_ids, 0.0, one.duration, None, {})
    else:
        for cut in _items(root / options.cuts, name):
            if not getattr(cut, "has_recording", False) or not hasattr(cut, "recording"):
                yield str(cut.id)
                continue
            custom = cut.custom or {}
            if not cut.supervisions:
                yield _Stretch(cut.id, cut.recording, cut.channel, cut.start, cut.duration, None, custom)
            for said in cut.supervisions:
                begin, end = max(said.start, 0.0), min(said.end, cut.duration)
                both = {**custom, **(said.custom or {})}
                yield _Stretch(said.id, cut.recording, said.channel, cut.start + begin, end - begin, said, both)


def _items(path: Path, corpus: str) -> Iterator[Any]:
    if not path.is_file():
        raise UserError(f"{path}: the manifest of corpus {corpus!r} is missing; mend its options")
    from lhotse.serialization import load_manifest_lazy_or_eager

    try:
        yield from load_manifest_lazy_or_eager(path) or ()
    except (ValueError, KeyError, TypeError, AttributeError, AssertionError, EOFError, OSError) as error:
        raise UserError(f"{path}: is damaged, or no manifest of lhotse's: {error!r}; write it again") from None


def _rows(root: Path, name: str, kind: Kind, options: Options, one: _Stretch) -> Iterator[Utterance]:
    said, custom = one.supervision, one.custom
    source = one.recording.sources[0].source
    is_file = one.recording.sources[0].type == "file"
    text = (said.text or "") if said else ""
    row = Utterance(
        utt_id=make_utt_id(name, one.name),
        corpus=name,
        kind=kind,
        path=_relative(str(source), root, name, options) if is_file else one.name,
        offset_s=float(one.offset_s),
        duration_s=float(one.duration_s),
        speaker=(said.speaker if said else None) or custom.get("speaker") or "",
        split=next((split for split in SPLITS if options.use_split and custom.get("split") == split), None),
        licence=custom.get("licence") or "",
        language=canonical((said.language if said else None) or (options.language if kind == "speech" else "")),
        language_prob=custom.get("language_prob"),
        text=text,
        text_source=(custom.get("text_source") or "corpus") if text else "",
        text_logprob=custom.get("text_logprob"),
    )
    if why := _unreadable(one, is_file):
        yield unfit(row, *why)
    else:
        yield row


def _unreadable(one: _Stretch, is_file: bool) -> tuple[str, str] | None:
    """Say why a stretch would not sound here as it does in lhotse; None if it does."""
    channels = one.channels if isinstance(one.channels, list) else [one.channels]
    if not is_file or len(one.recording.sources) > 1:
        return "not_one_file", f"{one.name}: its audio is no file, or several; write it to one"
    if one.recording.transforms:
        return "transformed", f"{one.name}: lhotse would change its speed, rate or level; save the changed audio"
    if len(channels) < one.recording.num_channels:
        heard = ", ".join(map(str, channels))
        return "one_of_the_channels", f"{one.name}: channel {heard} of {one.recording.num_channels}; save it as a file"
    if one.duration_s <= 0:
        return "too_short", f"{one.name}: lies outside its cut"
    return None


def _relative(source: str, root: Path, corpus: str, options: Options) -> str:
    """Return a source's path relative to the root.

    Raises:
        UserError: It lies elsewhere.
    """
    path = Path(source)
    if options.moved_from and path.is_relative_to(options.moved_from):
        return path.relative_to(options.moved_from).as_posix()
    for candidate in (path, path.resolve()) if path.is_absolute() else ():
        if candidate.is_relative_to(root):
            return candidate.relative_to(root).as_posix()
    if path.is_absolute():
        raise UserError(
            f"corpus {corpus!r}: {source} does not lie below the root {root}; take a root that holds all audio, or say "
            "in options.moved_from which folder is the root now"
        )
    return path.as_posix()
