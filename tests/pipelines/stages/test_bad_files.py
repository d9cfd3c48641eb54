"""The law of bad files: whatever a corpus holds, ingest runs to its end with one reject row each, and loses nothing."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest
import soundfile as sf

from flowse.data.manifest import Reject, Utterance
from flowse.data.parquet import read_rows
from flowse.errors import UserError
from flowse.seeding import generator
from pipelines.corpora.config import CorpusConfig
from pipelines.engine.context import Context
from pipelines.stages import ingest
from pipelines.stages.ingest import corpus_roots
from tests.pipelines.bad_files import GOOD, plant


@pytest.mark.parametrize("size", [1000, 3])
def test_every_bad_file_is_one_reject_and_every_good_one_is_kept(size: int, tmp_path: Path) -> None:
    reasons = plant(tmp_path / "corpus")
    corpus = CorpusConfig(name="c", root=str(tmp_path / "corpus"), options={"table": "table.csv"})
    config = ingest.Config(speech=(corpus,), utterances_per_unit=size)
    context = Context(tmp_path / "out", name="ingest", roots=corpus_roots(config, tmp_path))
    report = ingest.run(config, context)
    kept = [row.path for row in read_rows(context.parts(".parquet"), Utterance)]
    rejects = list(read_rows(context.parts(".rejects.parquet"), Reject))
    assert sorted(kept) == sorted(GOOD)
    assert len(kept) + len(rejects) == report.taken.utterances == len(GOOD) + len(reasons)
    assert report.quarantined == ()
    wrong = [
        f"{name}: {[reject.reason for reject in found]}, not {reason}"
        for name, reason in reasons.items()
        for found in [[reject for reject in rejects if name in reject.detail or name[:100] in reject.detail]]
        if not any(reject.reason in reason.split("|") for reject in found)
    ]
    assert wrong == []
    assert all("worker_error" not in reject.reason for reject in rejects)
    assert all(reject.detail and "\n" not in reject.detail for reject in rejects)


@pytest.mark.parametrize(
    "error", [MemoryError(), AttributeError("no codec"), RuntimeError("odd"), OSError(errno.ENAMETOOLONG, "too long")]
)
def test_any_exception_of_one_recording_is_its_own_reject(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, context = _three_files(tmp_path, monkeypatch, error)
    report = ingest.run(config, context)
    assert (report.taken.utterances, report.kept.utterances) == (3, 2)
    (reject,) = read_rows(context.parts(".rejects.parquet"), Reject)
    assert (reject.reason, reject.kind) == ("worker_error", "failed")
    assert f"b.wav: {type(error).__name__}: " in reject.detail


@pytest.mark.parametrize("error", [OSError(errno.EIO, "I/O error"), OSError(errno.ESTALE, "Stale"), UserError("mend")])
def test_an_exception_that_is_no_recordings_fault_rejects_none(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, context = _three_files(tmp_path, monkeypatch, error)
    with pytest.raises(UserError, match=r"quarantine|mend"):
        ingest.run(config, context)
    assert list(tmp_path.rglob("*.rejects.parquet")) == []


def _three_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> tuple[ingest.Config, Context]:
    """Write a corpus of three recordings; decoding the second raises an error."""
    (tmp_path / "corpus").mkdir()
    for number, name in enumerate("abc"):
        sf.write(tmp_path / "corpus" / f"{name}.wav", 0.1 * generator(number).standard_normal(16_000), 16_000)

    def check(row: Utterance, path: Path, **limits: Any) -> Utterance:
        if path.name == "b.wav":
            raise error
        return row

    monkeypatch.setattr("flowse.data.measure.check_recording", check)
    config = ingest.Config(speech=(CorpusConfig(name="c", root=str(tmp_path / "corpus")),))
    return config, Context(tmp_path / "out", name="ingest", roots=corpus_roots(config, tmp_path))
