"""A test bench for readers: short recordings in the layout of a corpus, read by its reader and measured by ingest."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import soundfile

from flowse.data.manifest import Kind, Reject, Utterance
from flowse.data.parquet import read_rows
from pipelines.corpora.listing import list_units
from pipelines.corpora.readers import READERS, reader_of
from pipelines.engine.units import UnitFolder
from pipelines.stages import ingest

SUBTYPES = {".opus": ("OGG", "OPUS"), ".ogg": ("OGG", "VORBIS"), ".flac": ("FLAC", None), ".wav": ("WAV", None)}


@dataclass
class Measured:
    """What ingest makes of a corpus: the rows that it keeps, and its reject rows by utterance id."""

    kept: list[Utterance] = field(default_factory=list)
    rejects: dict[str, Reject] = field(default_factory=dict)

    @property
    def paths(self) -> list[str]:
        return [row.path for row in self.kept]

    @property
    def reasons(self) -> list[str]:
        return sorted(reject.reason for reject in self.rejects.values())


@dataclass
class Bench:
    """The root of a corpus, with methods that fill it, read it and measure it."""

    root: Path

    def audio(self, *names: str, seconds: float = 0.5, rate: int = 16_000, channels: int = 1) -> None:
        """Write a recording under every name; each holds other noise."""
        for name in names:
            path = self.root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            shape = (round(seconds * rate), channels)
            samples = 0.1 * np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape)
            kind, subtype = SUBTYPES[path.suffix.lower()]
            soundfile.write(path, samples, rate, format=kind, subtype=subtype)

    def text(self, name: str, content: str) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")

    def read(self, reader: str, kind: Kind = "speech", **options: object) -> list[Utterance]:
        """Read the corpus twice, and return the rows, which must be the same."""
        rows = [list(self._read(reader, kind, options)) for _ in range(2)]
        assert repr(rows[0]) == repr(rows[1])  # a time may be nan, which is not equal to itself
        return rows[0]

    def _read(self, reader: str, kind: Kind, options: dict[str, object]) -> list[Utterance]:
        module, chosen = reader_of(reader, options, "c")
        return list(module.read(self.root, "c", kind, chosen, 0))

    def measure(self, reader: str, kind: Kind = "speech", **options: object) -> Measured:
        """List and decode the corpus by ingest; every row is kept or rejected, and every id is unique."""
        rows = self.read(reader, kind, **options)
        assert len({row.utt_id for row in rows}) == len(rows)
        corpus = ingest.CorpusConfig(name="c", reader=reader, root=str(self.root), options=options)
        section = {"speech": "speech", "noise": "noise", "rir": "rirs"}[kind]
        config = ingest.Config(**{section: (corpus,)}, utterances_per_unit=3)  # type: ignore[arg-type]
        roots = ingest.corpus_roots(config, self.root / "made")
        storage = self.root.parent / "storage"
        worker = ingest.Worker(config, roots, 0)
        found = Measured()
        for unit in list_units(config.corpora(), roots, storage, config.utterances_per_unit, seed=0):
            output = UnitFolder(storage, unit.name)
            report = worker(unit.payload, output)
            found.kept += read_rows(output.path(".parquet"), Utterance)
            found.rejects |= {reject.utt_id: reject for reject in report.rejects}
        assert {row.utt_id for row in rows} == {row.utt_id for row in found.kept} | set(found.rejects)
        assert all(row.duration_s > 0 and row.licence is not None and row.split for row in found.kept)
        assert all(reject.detail for reject in found.rejects.values())
        return found

    def keys(self, reader: str, **options: object) -> set[str]:
        """Return what the units of the corpus are known by."""
        corpus = ingest.CorpusConfig(name="c", reader=reader, root=str(self.root), options=options)
        config = ingest.Config(speech=(corpus,))
        roots = ingest.corpus_roots(config, self.root / "made")
        return {unit.content for unit in list_units(config.corpora(), roots, self.root.parent / "listed", 3, seed=0)}

    def digest(self, reader: str, **options: object) -> str:
        module, chosen = reader_of(reader, options, "c")
        digest = module.listing_digest(self.root, chosen)
        assert digest == module.listing_digest(self.root, chosen)
        return str(digest)

    def changes(self, reader: str, change: Callable[[], object], **options: object) -> bool:
        """Return whether a change of the files changes the digest."""
        before = self.digest(reader, **options)
        change()
        return self.digest(reader, **options) != before


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """Return the bench of an empty corpus."""
    assert READERS
    (tmp_path / "corpus").mkdir()
    return Bench(tmp_path / "corpus")
