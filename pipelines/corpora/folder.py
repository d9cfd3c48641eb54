"""The `folder` corpus: any tree of audio files, with an optional table of texts, speakers, languages and segments."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flowse.audio.recordings import find_recordings
from flowse.data.manifest import SPLITS, Kind, Utterance, make_utt_id
from flowse.errors import UserError
from pipelines.corpora import tree_digest
from pipelines.corpora.languages import canonical

LICENCE = ""
_KNOWN_COLUMNS = ("path", "text", "language", "speaker", "licence", "split", "offset_s", "duration_s")


@dataclass(frozen=True, kw_only=True)
class Options:
    """Settings of a folder corpus.

    Attributes:
        under: Read only this folder below the root; the paths in the table stay relative to the root.
        table: A csv or parquet file (relative to the root, or absolute) with the column `path` and any of: text,
            language, speaker, licence, split, offset_s, duration_s. Several rows of one path are segments of that file.
            Files without a row are read, too; a row without a file is rejected as not_found.
        language: Language of files whose row states none.
        speaker_regex: Finds the speaker in the relative path: the first group of the match, or the whole match.
        use_split: Whether the column `split` of the table counts; otherwise ingest chooses the split.
    """

    under: str = ""
    table: str = ""
    language: str = ""
    speaker_regex: str = ""
    use_split: bool = False

    def __post_init__(self) -> None:
        try:
            re.compile(self.speaker_regex)
        except re.error as error:
            raise ValueError(f"speaker_regex: {self.speaker_regex!r} is no regular expression: {error}") from None


def _table_path(root: Path, options: Options) -> Path:
    return root / options.table


def listing_digest(root: Path, options: Options) -> str:
    """Hash names, sizes and times of the audio files and of the table."""
    more = [_table_path(root, options)] if options.table else []
    return tree_digest(root / options.under, options, *more)


def _read_table(root: Path, options: Options) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of the table by path.

    Raises:
        UserError: The table or its column `path` is missing, or a value has the wrong type.
    """
    if not options.table:
        return {}
    path = _table_path(root, options)
    if not path.is_file():
        raise UserError(f"{path}: the corpus' table is missing; mend options.table, or leave it empty")
    import pandas as pd

    try:
        # Columns are read as text: a speaker "007" is not the number 7, a language "no" or "nan" not a missing value.
        frame = (
            pd.read_parquet(path)
            if path.suffix == ".parquet"
            else pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig")
        )
    except (ValueError, pd.errors.ParserError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as a table: {str(error).splitlines()[0]}") from None
    if "path" not in frame.columns:
        raise UserError(f"{path}: column 'path' is missing; it has: {', '.join(map(str, frame.columns))}")
    rows: dict[str, list[dict[str, Any]]] = {}
    columns = [name for name in _KNOWN_COLUMNS if name in frame.columns]
    for number, values in enumerate(frame[columns].itertuples(index=False), start=2):
        row = {key: value for key, value in zip(columns, values, strict=True) if value not in (None, "")}
        for key in ("offset_s", "duration_s"):
            try:
                row[key] = float(row.get(key, 0.0))
            except ValueError:
                raise UserError(f"{path}, line {number}: {key} is {row[key]!r}, not a number of seconds") from None
        if options.use_split and row.get("split") not in (None, *SPLITS):
            raise UserError(f"{path}, line {number}: split is {row['split']!r}; allowed: {', '.join(SPLITS)}")
        if "path" in row:
            rows.setdefault(Path(str(row["path"])).as_posix(), []).append(row)
    prefix = f"{Path(options.under).as_posix()}/" if options.under else ""
    return {name: found for name, found in rows.items() if name.startswith(prefix)}


def read(root: Path, name: str, kind: Kind, options: Options, seed: int) -> Iterator[Utterance]:
    """Yield the files of the tree in order, then the rows of the table that have no file.

    Raises:
        UserError: The folder does not exist, holds no audio, or its table is unusable.
    """
    folder = root / options.under
    if not folder.is_dir():
        raise UserError(
            f"{folder}: the folder of corpus {name!r} does not exist; mend its root in the experiment's config"
        )
    table = _read_table(root, options)
    empty = True
    for path in find_recordings(folder):
        relative = path.relative_to(root).as_posix()
        for row in table.pop(relative, [{}]):
            yield _utterance(name, kind, relative, row, options)
            empty = False
    for relative, rows in sorted(table.items()):
        for row in rows:
            yield _utterance(name, kind, relative, row, options)
            empty = False
    if empty:
        raise UserError(f"{folder}: corpus {name!r} has no audio files; mend its root in the experiment's config")


def _utterance(corpus: str, kind: Kind, relative: str, row: dict[str, Any], options: Options) -> Utterance:
    offset_s, duration_s = row.get("offset_s", 0.0), row.get("duration_s", 0.0)
    speaker = str(row.get("speaker", ""))
    if not speaker and options.speaker_regex:
        found = re.search(options.speaker_regex, relative)
        speaker = (found[1] if found.groups() else found[0]) if found else ""
    text = str(row.get("text", ""))
    return Utterance(
        utt_id=make_utt_id(corpus, relative, offset_s if offset_s or duration_s else None),
        corpus=corpus,
        kind=kind,
        path=relative,
        offset_s=offset_s,
        duration_s=duration_s,
        speaker=speaker,
        split=row.get("split") if options.use_split else None,
        licence=str(row.get("licence", "")),
        language=canonical(str(row.get("language", options.language))),
        text=text,
        text_source="corpus" if text else "",
    )
