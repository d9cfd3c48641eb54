"""The law of bad files: whatever a corpus holds, ingest runs to its end with one reject row each, and loses nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from flowse.data.manifest import Reject, Utterance
from flowse.data.parquet import read_rows
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
