"""A manifest that this program wrote: parquet of `Utterance` rows, as ingest, the filters and enhance write them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from flowse.data.manifest import SPLITS, Kind, Utterance
from flowse.errors import UserError
from pipelines.corpora import corpus_folder, missing_error, paths_digest

LICENCE = ""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Settings of a manifest.

    Attributes:
        manifest: A parquet file, or a folder of parts such as that of a stage, relative to the root or absolute; the
            root is the folder of the audio.
        corpus: Read only the rows of this corpus: a manifest of several corpora has several roots. Empty: all rows.
        outside: Whether paths of the rows, and links, may lead out of the root; otherwise such rows are rejected.
    """

    manifest: str = "manifest.parquet"
    corpus: str = ""
    outside: bool = field(default=False, metadata={"fingerprint": "unless default"})


def _parts(root: Path, options: Options) -> list[Path]:
    """Return the files of the manifest; other tables, which the folder of a stage holds, too, are left out."""
    path = root / options.manifest
    if path.is_dir():
        return [part for part in sorted(path.glob("*.parquet")) if _is_manifest(part)]
    return [path] if path.is_file() else []


def _is_manifest(path: Path) -> bool:
    import pyarrow.parquet as pq
    from pyarrow import ArrowException

    from flowse.data.parquet import schema_of

    try:
        return set(schema_of(Utterance).names) - {"content"} <= set(pq.read_schema(path).names)
    except (ArrowException, OSError):
        return False


def listing_digest(root: Path, options: Options) -> str:
    """Hash the sizes and times of the manifest's files, and of the audio files that their rows name."""
    parts = _parts(root, options)
    return paths_digest(root, options, (*parts, *_named(root, options, parts)))


def _named(root: Path, options: Options, parts: Iterable[Path]) -> Iterator[Path]:
    """Yield the files that the rows name; `read` says what is wrong with a part that cannot be read."""
    from flowse.data.parquet import RowsError, read_columns

    for part in parts:
        try:
            table = read_columns(part, Utterance, ["corpus", "path"])
        except RowsError:
            continue
        for row in table.group_by(["corpus", "path"], use_threads=False).aggregate([]).to_pylist():
            if options.corpus in ("", row["corpus"]):
                yield root / row["path"]


def read(root: Path, name: str, kind: Kind, options: Options, seed: int) -> Iterator[Utterance]:
    """Yield the rows of one kind in their order, under the name of this corpus.

    Raises:
        UserError: There is no manifest, a file is no manifest, or it holds no row of this kind.
    """
    from flowse.data.parquet import read_rows

    corpus_folder(root, name)
    parts = _parts(root, options)
    if not parts:
        raise missing_error(root, name, f"manifest {options.manifest}")
    empty = True
    for part in parts:
        if not _is_manifest(part):
            raise UserError(f"{part}: is no manifest of this program; give a part that ingest or a filter wrote")
        for row in read_rows(part, Utterance):
            if row.split not in (None, *SPLITS):
                raise UserError(f"{part}: split of {row.utt_id} is {row.split!r}; allowed: {', '.join(SPLITS)}")
            if row.kind == kind and options.corpus in ("", row.corpus):
                empty = False
                own = row.utt_id.removeprefix(f"{row.corpus.lower()}/")
                # What the file holds now is seen where it is decoded.
                yield dataclasses.replace(row, utt_id=f"{name.lower()}/{own}", corpus=name, content="")
    if empty:
        of = f" of corpus {options.corpus!r}" if options.corpus else ""
        raise UserError(f"{root / options.manifest}: holds no {kind}{of}; mend the options of corpus {name!r}")
