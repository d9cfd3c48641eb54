"""Write a stage's manifest as a lhotse `CutSet`, for the tools that read those."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from flowse.audio.waveform import AudioInfo, probe
from flowse.data.content import require_unchanged
from flowse.data.manifest import Utterance, make_utt_id
from flowse.data.parquet import read_rows
from flowse.errors import UserError
from flowse.fetching import fetched
from flowse.files import atomic_path
from flowse.refusal import Refusal
from pipelines.commands.session import Session
from pipelines.stages import filter_language, ingest, quality, transcribe

_CUSTOM = ("corpus", "kind", "split", "licence", "language_prob", "text_source", "text_logprob")
_STAGES = (
    ingest.NAME,
    quality.NAME,
    filter_language.NAME,
    transcribe.NAME,
)  # those that write a manifest of utterances


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the stage and the file to write."""
    parser.add_argument("stage", choices=_STAGES, metavar="STAGE", help=", ".join(_STAGES))
    parser.add_argument("out", type=Path, metavar="OUT", help="the file to write: .jsonl or .jsonl.gz")


def run(arguments: argparse.Namespace) -> int:
    """Write the CutSet and print how many cuts it holds.

    Raises:
        UserError: The stage is not fresh, or as `export_cuts` says.
    """
    session = Session.of(arguments)
    manifest = session.finished(arguments.stage).parts(".parquet")
    roots = ingest.corpus_roots(session.config.ingest, session.workspace / "made")
    count = export_cuts(manifest, roots, arguments.out)
    print(f"{arguments.out}: {count:,} cuts")
    return 0


def export_cuts(parts: Sequence[Path], roots: Mapping[str, Path], out: Path) -> int:
    """Write a cut for every row of a manifest, with bounded memory; the file is whole or absent.

    A cut has the row's id; speech has a supervision with text, speaker and language; columns that lhotse has no place
    for (split, licence, …) become custom fields. The corpus reader `lhotse` reads all of them back.

    Args:
        parts: Parquet files of the manifest.
        roots: Folder of every corpus, by name; the cuts name the recordings by absolute path.
        out: File to write; its name ends in .jsonl or .jsonl.gz.

    Returns:
        The number of cuts that were written.

    Raises:
        UserError: The name has another ending, the stage has no manifest, a recording is gone or changed, or it is no
            file: it lies in a store or in a tar.
    """
    if not out.name.endswith((".jsonl", ".jsonl.gz")):
        raise UserError(f"{out}: a CutSet is written as .jsonl or .jsonl.gz; give it such a name")
    if not parts:
        raise UserError(f"this stage writes no manifest; export-cuts takes {', '.join(_STAGES)}")
    from lhotse import CutSet

    header = lru_cache(maxsize=8)(_header)  # the segments of a recording follow each other
    count = 0
    with atomic_path(out) as temporary, CutSet.open_writer(temporary, overwrite=True) as writer:
        for row in read_rows(parts, Utterance):
            path = roots[row.corpus] / row.path
            _require_unchanged(row, path)
            if fetched(path) != path:
                raise UserError(
                    f"corpus {row.corpus!r}: lies in a store or in tar files, and lhotse reads files; copy or unpack "
                    "it, and name that folder as its root"
                )
            writer.write(cut_of(row, path, header(path)))
            count += 1
    return count


def _require_unchanged(row: Utterance, path: Path) -> None:
    """Refuse to name a recording under text and times that are those of another.

    Raises:
        UserError: The file holds other bytes than ingest decoded.
    """
    try:
        require_unchanged(row, path)
    except Refusal as error:
        raise UserError(error.detail) from None


def _header(path: Path) -> AudioInfo:
    """Read the header of a recording.

    Raises:
        UserError: The recording cannot be read any more.
    """
    try:
        return probe(path)
    except Refusal as error:
        raise UserError(f"{error.detail} (it was there when the manifest was made)") from None


def cut_of(row: Utterance, path: Path, header: AudioInfo) -> Any:
    """Return the cut of a row: a `MonoCut`, or for several channels a `MultiCut`.

    Args:
        row: Row of a manifest.
        path: File of its recording.
        header: Length, sample rate and channels of that file.
    """
    from lhotse import AudioSource, MonoCut, MultiCut, Recording, SupervisionSegment

    channels = list(range(header.channels))
    recording = Recording(
        id=make_utt_id(row.corpus, row.path),
        sources=[AudioSource(type="file", channels=channels, source=str(path))],
        sampling_rate=header.sample_rate,
        num_samples=header.frames,
        duration=header.duration_s,
    )
    channel = 0 if header.channels == 1 else channels
    supervision = SupervisionSegment(
        id=row.utt_id,
        recording_id=recording.id,
        start=0.0,
        duration=row.duration_s,
        channel=channel,
        text=row.text or None,
        language=row.language or None,
        speaker=row.speaker or None,
    )
    custom = {key: value for key in _CUSTOM if (value := getattr(row, key)) not in (None, "")}
    if row.kind != "speech" and row.speaker:
        custom["speaker"] = row.speaker
    return (MonoCut if header.channels == 1 else MultiCut)(
        id=row.utt_id,
        start=row.offset_s,
        duration=row.duration_s,
        channel=channel,
        recording=recording,
        supervisions=[supervision] if row.kind == "speech" else [],
        custom=custom,
    )
