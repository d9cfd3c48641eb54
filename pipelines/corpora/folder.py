"""The `folder` corpus: any tree of audio files, with an optional table of texts, speakers, languages and segments."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from flowse.audio.recordings import find_recordings
from flowse.data.manifest import SPLITS, Kind, Split, Utterance, make_utt_id
from flowse.data.row_files import RowFiles
from flowse.data.tables import Columns, TableRow, read_table, unread_columns
from flowse.errors import UserError
from flowse.names import readable
from pipelines.corpora import tree_digest
from pipelines.corpora.languages import canonical

LICENCE = ""
_COLUMNS = Columns(
    texts=("text", "language", "speaker", "licence", "split"),
    numbers=("offset_s", "duration_s"),
)


@dataclass(frozen=True, kw_only=True)
class Options:
    """Settings of a folder corpus.

    Attributes:
        under: Read only this folder below the root; the paths in the table stay relative to the root.
        table: A csv or parquet file (relative to the root, or absolute) with the column `path` and any of: text,
            language, speaker, licence, split, offset_s, duration_s. Several rows of one path are segments of that file.
            Files without a row are read, too; a row without a file is rejected as not_found. A path that differs in
            spelling only (`./x.wav`, an absolute path below the root, another Unicode form or case) finds its file.
        language: Language of files whose row states none.
        speaker_regex: Finds the speaker in the relative path: the first group of the match, or the whole match.
        use_split: Whether the column `split` of the table counts; otherwise ingest chooses the split.
        outside: Whether paths of the table, and links, may lead out of the root; otherwise such rows are rejected.
    """

    under: str = ""
    table: str = ""
    language: str = ""
    speaker_regex: str = ""
    use_split: bool = False
    outside: bool = field(default=False, metadata={"fingerprint": "unless default"})

    def __post_init__(self) -> None:
        try:
            re.compile(self.speaker_regex)
        except re.error as error:
            raise ValueError(f"speaker_regex: {self.speaker_regex!r} is no regular expression: {error}") from None


def _table_path(root: Path, options: Options) -> Path:
    return root / options.table


def listing_digest(root: Path, options: Options) -> str:
    """Hash names, sizes and times of the audio files and of the table, and of other files that the table names."""
    more = [_table_path(root, options), *_named(root, options)] if options.table else []
    return tree_digest(root / options.under, options, *more)


def _named(root: Path, options: Options) -> Iterator[Path]:
    """Yield the files that the table names and that a look into the folder does not find: of other endings, or outside.

    `read` says what is wrong with a table that cannot be read.
    """
    found = {_relative(path, root) for path in find_recordings(root / options.under)}
    index = RowFiles(root, ())
    with suppress(UserError):
        names = (index.relative(row.path) for row in read_table(_table_path(root, options), _COLUMNS))
        for name in sorted({name for name in names if name not in found and _counts(name, options)}):
            yield root / name


def _counts(name: str, options: Options) -> bool:
    """Whether a row of the table belongs to the part of the corpus that is read."""
    prefix = f"{Path(options.under).as_posix()}/" if Path(options.under).parts else ""
    return name.startswith((prefix, "/", "../"))


@dataclass(frozen=True)
class _Match:
    """The recordings below a folder and the rows of its table.

    Attributes:
        files: Paths of the recordings, relative to the root, in order.
        rows: The rows of the table by the path of their recording; where there is none, by the path that they name.
    """

    files: list[str]
    rows: dict[str, list[TableRow]]


def _match(root: Path, options: Options) -> _Match:
    """Find the recording of every row of the table.

    Raises:
        UserError: The table is missing, is not as `read_table` says, or names none of the recordings.
    """
    path = _table_path(root, options)
    if not path.is_file():
        raise UserError(f"{path}: the corpus' table is missing; mend options.table, or leave it empty")
    files = [_relative(found, root) for found in find_recordings(root / options.under)]
    index = RowFiles(root, files)
    rows: dict[str, list[TableRow]] = {}
    read = list(read_table(path, _COLUMNS))
    for row, file in zip(read, index.find_all([row.path for row in read]), strict=True):
        if options.use_split and row.texts["split"] not in ("", *SPLITS):
            raise UserError(f"{row.where}: split is {row.texts['split']!r}; allowed: {', '.join(SPLITS)}")
        name = file or index.relative(row.path)
        if _counts(name, options):
            rows.setdefault(name, []).append(row)
    if files and rows and rows.keys().isdisjoint(files) and not any(_exists(root, name) for name in rows):
        raise UserError(
            f"{path}: none of the files that it names is there, e.g. {readable(next(iter(rows)))!r}; the paths must be "
            f"relative to {root}, such as {readable(files[0])!r}"
        )
    return _Match(files, rows)


def _relative(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()


def _exists(root: Path, name: str) -> bool:
    try:
        return (root / name).exists()
    except (ValueError, OSError):  # a zero byte, or a name that no file can have
        return False


def remarks(root: Path, options: Options) -> list[str]:
    """Return lines about columns that are not read, recordings without a row and rows without a recording.

    Raises:
        UserError: The table is not as `read` needs it.
    """
    if not options.table:
        return []
    found = _match(root, options)
    name = options.table
    lines = unread_columns(_table_path(root, options), _COLUMNS)
    if bare := [file for file in found.files if file not in found.rows]:
        lines.append(
            f"{name}: {len(bare):,} of {len(found.files):,} recordings have no row, e.g. {readable(bare[0])}; they "
            "are read without what the table says"
        )
    files = set(found.files)
    if lost := [
        row for path, rows in found.rows.items() if path not in files and not _exists(root, path) for row in rows
    ]:
        total = sum(map(len, found.rows.values()))
        lines.append(
            f"{name}: {len(lost):,} of {total:,} rows name no file, e.g. {readable(lost[0].path)}; they become reject "
            "rows"
        )
    return lines


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
    empty = True
    for relative, row in _files_and_rows(root, options):
        yield _utterance(name, kind, relative, row, options)
        empty = False
    if empty:
        raise UserError(f"{folder}: corpus {name!r} has no audio files; mend its root in the experiment's config")


def _files_and_rows(root: Path, options: Options) -> Iterator[tuple[str, TableRow | None]]:
    """Yield every file with each of its rows, or with None, and then the rows without a file."""
    if not options.table:
        for path in find_recordings(root / options.under):
            yield _relative(path, root), None
        return
    found = _match(root, options)
    for relative in found.files:
        for row in found.rows.pop(relative, [None]):
            yield relative, row
    for relative, rows in sorted(found.rows.items()):
        for row in rows:
            yield relative, row


def _utterance(corpus: str, kind: Kind, relative: str, row: TableRow | None, options: Options) -> Utterance:
    texts = row.texts if row else {}
    numbers = row.numbers if row else {}
    offset_s, duration_s = (numbers.get(key) or 0.0 for key in ("offset_s", "duration_s"))
    speaker, text = texts.get("speaker", ""), texts.get("text", "")
    if not speaker and options.speaker_regex:
        found = re.search(options.speaker_regex, relative)
        # A group that takes no part in the match is None.
        speaker = ((found[1] if found.groups() else found[0]) if found else "") or ""
    return Utterance(
        utt_id=make_utt_id(corpus, relative, offset_s if offset_s or duration_s else None),
        corpus=corpus,
        kind=kind,
        path=relative,
        offset_s=offset_s,
        duration_s=duration_s,
        speaker=speaker,
        split=_split(texts.get("split", "")) if options.use_split else None,
        licence=texts.get("licence", ""),
        language=canonical(texts.get("language", "") or options.language),
        text=text,
        text_source="corpus" if text else "",
    )


def _split(name: str) -> Split | None:
    return next((split for split in SPLITS if split == name), None)
