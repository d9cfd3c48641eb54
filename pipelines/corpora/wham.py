"""WHAM!: 80 h of ambient noise from restaurants, cafés, bars and parks, at two microphones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from flowse.audio.recordings import find_files, find_recordings
from flowse.data.manifest import Kind, Split, Utterance
from flowse.data.tables import Columns, read_table
from pipelines.corpora import corpus_folder, missing_error, require_kind, tree_digest, utterance

LICENCE = "CC-BY-NC-4.0"
_FOLDERS: dict[str, Split] = {"tr": "train", "cv": "dev", "tt": "test"}
_UNCUT_SPLITS: dict[str, Split] = {"train": "train", "valid": "dev", "test": "test"}
_COLUMNS = ("File ID", "Location ID", "WHAM! Split")
_UNCUT_LIST = "high_res_metadata.csv"


@dataclass(frozen=True, kw_only=True)
class Options:
    """Settings of WHAM!.

    Attributes:
        use_split: Whether the splits of the corpus (tr, cv, tt) count; otherwise ingest chooses by the location.
    """

    use_split: bool = True


def _folder(root: Path, corpus: str) -> Path:
    return corpus_folder(root, corpus, "wham_noise", "high_res_wham")


def holds(root: Path, kind: Kind, options: Options) -> set[str]:
    """Return the one collection: wham_noise is cut from high_res_wham."""
    return {"WHAM!"}


def listing_digest(root: Path, options: Options) -> str:
    """Hash names, sizes and times of the audio files and of the tables."""
    return tree_digest(root, options, *find_files(root, (".csv",)))


def read(root: Path, name: str, kind: Kind, options: Options, seed: int) -> Iterator[Utterance]:
    """Yield the clips of wham_noise (16 kHz), or the uncut recordings of high_res_wham (48 kHz).

    lhotse's recipe is not used: it does not read the tables, which say which clips come from one recording.

    Raises:
        UserError: The root holds neither of the two.
    """
    require_kind(kind, ("noise",), name)
    folder = _folder(root, name)
    if (folder / _UNCUT_LIST).is_file():
        yield from _uncut(root, folder, name, kind, options)
        return
    if not any((folder / part).is_dir() for part in _FOLDERS):
        raise missing_error(folder, name, f"folder tr, cv or tt, nor {_UNCUT_LIST}")
    # WHAM! splits share no recordings, but may share locations.
    column = "File ID" if options.use_split else "Location ID"
    for part, split in _FOLDERS.items():
        origins = _table(folder / "metadata" / f"noise_meta_{part}.csv", "utterance_id")
        for path in find_recordings(folder / part):
            yield utterance(
                name,
                kind,
                path.relative_to(root).as_posix(),
                speaker=origins.get(path.stem, {}).get(column, ""),
                split=split if options.use_split else None,
            )


def _uncut(root: Path, folder: Path, name: str, kind: Kind, options: Options) -> Iterator[Utterance]:
    table = _table(folder / _UNCUT_LIST, "Filename")
    found = {path.name: path for path in find_recordings(folder / "audio")}
    for filename in sorted({*found, *(Path(row["Filename"]).name for row in table.values())}):
        known = table.get(Path(filename).stem, {})
        yield utterance(
            name,
            kind,
            found.get(filename, folder / "audio" / filename).relative_to(root).as_posix(),
            speaker="" if options.use_split else known.get("Location ID", ""),
            split=_UNCUT_SPLITS.get(known.get("WHAM! Split", "").lower()) if options.use_split else None,
        )


def _table(path: Path, key: str) -> Mapping[str, dict[str, str]]:
    """Return the rows of a table by file name without suffix; none if there is no table."""
    if not path.is_file():
        return {}
    columns = Columns(path=key, texts=_COLUMNS)
    return {Path(row.path).name.removesuffix(".wav"): {key: row.path, **row.texts} for row in read_table(path, columns)}
