"""A manifest of this program: its rows are read under the new name, and other files are refused."""

from __future__ import annotations

import dataclasses
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flowse.data.content import content_of
from flowse.data.manifest import Reject, Utterance
from flowse.data.parquet import write_rows
from flowse.errors import UserError


@pytest.fixture
def kept(bench: Any) -> Any:
    """Two corpora and a noise in two parts, beside another table."""
    bench.audio("a.flac", "deep/b.flac")
    rows = [
        Utterance(utt_id="one/a-flac", corpus="one", kind="speech", path="a.flac", text="hello", text_source="corpus"),
        Utterance(utt_id="two/deep/b-flac", corpus="two", kind="speech", path="deep/b.flac"),
        Utterance(utt_id="one/n", corpus="one", kind="noise", path="a.flac"),
    ]
    (bench.root / "parts").mkdir()
    write_rows(bench.root / "parts" / "part-0.parquet", Utterance, rows[:1])
    write_rows(bench.root / "parts" / "part-1.parquet", Utterance, rows[1:])
    write_rows(bench.root / "parts" / "rejects.parquet", Reject, [])
    return bench


def test_rows_of_a_folder_of_parts_are_read_under_the_new_name(kept: Any) -> None:
    found = kept.measure("manifest", manifest="parts")
    assert [(row.utt_id, row.path) for row in found.kept] == [("c/a-flac", "a.flac"), ("c/deep/b-flac", "deep/b.flac")]
    assert found.kept[0].text == "hello"


def test_one_corpus_of_several(kept: Any) -> None:
    assert [row.path for row in kept.read("manifest", manifest="parts", corpus="two")] == ["deep/b.flac"]
    assert [row.kind for row in kept.read("manifest", "noise", manifest="parts")] == ["noise"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"manifest": "gone.parquet"}, "has no manifest gone"),
        ({"manifest": "parts/rejects.parquet"}, "is no manifest of this program"),
        ({"manifest": "parts", "corpus": "three"}, "holds no speech of corpus 'three'"),
    ],
)
def test_a_file_that_is_no_manifest_is_refused(kept: Any, options: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        kept.read("manifest", **options)


def test_a_new_part_changes_the_digest(kept: Any) -> None:
    part = kept.root / "parts" / "part-2.parquet"
    assert kept.changes("manifest", lambda: write_rows(part, Utterance, []), manifest="parts")


def test_cells_that_ingest_does_not_write_are_refused(bench: Any) -> None:
    known = Utterance(utt_id="one/a", corpus="one", kind="speech", path="a.flac", split="dev")
    for column, value in (("text", None), ("speaker", 7), ("duration_s", "long")):
        row = {**dataclasses.asdict(known), "language_prob": 0.5, "text_logprob": 0.5, column: value}
        pq.write_table(pa.Table.from_pylist([row]), bench.root / "manifest.parquet")
        with pytest.raises(UserError, match=rf"manifest\.parquet: .*{column}"):
            bench.read("manifest")


def test_another_recording_under_the_name_of_a_row_changes_the_digest(kept: Any) -> None:
    """Of the same size; recordings that no row of the corpus names do not count."""
    kept.audio("other/b.flac")
    for path, corpus, changes in (
        ("deep/b.flac", "", True),
        ("deep/b.flac", "two", True),
        ("deep/b.flac", "one", False),
        ("other/b.flac", "", False),
    ):
        file = kept.root / path
        touch = lambda file=file: file.write_bytes(bytes(file.stat().st_size))  # noqa: E731
        assert kept.changes("manifest", touch, manifest="parts", corpus=corpus) == changes


def test_a_manifest_of_before_the_column_content_is_read_and_its_contents_are_measured_anew(kept: Any) -> None:
    part = kept.root / "parts" / "part-1.parquet"
    pq.write_table(pq.read_table(part).drop_columns(["content"]), part)
    write_rows(kept.root / "parts" / "part-0.parquet", Utterance, [])
    (found,) = kept.measure("manifest", manifest="parts").kept
    assert found.content == content_of(kept.root / "deep" / "b.flac")
    row = dataclasses.replace(found, corpus="one", utt_id="one/b", content="0" * 32)
    write_rows(part, Utterance, [row])
    assert kept.measure("manifest", manifest="parts").kept[0].content == found.content
