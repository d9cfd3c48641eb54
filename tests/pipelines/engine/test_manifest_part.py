"""Laws of a part of a manifest: each row that counts is either handed out or refused, and nothing else is."""

from __future__ import annotations

from pathlib import Path

from flowse.data.manifest import Kind, Utterance
from flowse.data.parquet import write_rows
from pipelines.engine.manifest_part import ManifestPart
from pipelines.engine.stage import Divisible


def test_refused_rows_fail_and_the_others_are_read(tmp_path: Path) -> None:
    kinds: list[Kind] = ["noise", "speech", "speech", "noise", "speech"]
    rows = [Utterance(utt_id=f"c/{at}", corpus="c", kind=kind, path=f"{at}.wav") for at, kind in enumerate(kinds)]
    write_rows(tmp_path / "part.parquet", Utterance, rows)
    part = ManifestPart(tmp_path / "part.parquet", 3, "speech")
    assert isinstance(part, Divisible)
    assert [row.utt_id for row in part.read("s")[0]] == ["c/1", "c/2", "c/4"]
    left, rejects = part.refuse({1: ("worker_died", "why")}).refuse({2: ("worker_died", "too")}).read("s")
    assert [row.utt_id for row in left] == ["c/1"]
    assert [(reject.utt_id, reject.kind, reject.reason) for reject in rejects] == [
        ("c/2", "failed", "worker_died"),
        ("c/4", "failed", "worker_died"),
    ]
    assert [row.utt_id for row in ManifestPart(tmp_path / "part.parquet", 5).read("s")[0]] == [
        f"c/{at}" for at in range(5)
    ]
