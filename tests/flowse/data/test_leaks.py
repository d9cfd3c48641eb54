"""Laws of the leak check: a name that stands in two splits is found, any other name is not."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from flowse.data.leaks import Leak, find_leaks
from flowse.data.manifest import Split, Utterance
from flowse.data.parquet import write_rows


def _row(number: int, speaker: str, split: Split, corpus: str = "a", path: str = "") -> Utterance:
    return Utterance(
        utt_id=f"{corpus}/{number}",
        corpus=corpus,
        kind="speech",
        path=path or f"{number}.wav",
        speaker=speaker,
        split=split,
    )


def test_only_names_that_stand_in_two_splits_are_leaks(tmp_path: Path) -> None:
    """Splits count across files; an unknown speaker and a speaker of the same name in another corpus are no leak."""
    write_rows(
        tmp_path / "1.parquet",
        Utterance,
        [_row(1, "ann", "train"), _row(2, "bob", "dev"), _row(3, "", "train"), _row(4, "cy", "test", "b")],
    )
    write_rows(
        tmp_path / "2.parquet",
        Utterance,
        [_row(5, "ann", "train"), _row(6, "bob", "test"), _row(7, "", "dev"), _row(8, "cy", "train", "a")],
    )
    paths = [tmp_path / "1.parquet", tmp_path / "2.parquet"]
    assert find_leaks(paths, "speaker", ("corpus", "speaker")) == [Leak("speaker", "a:bob", ("dev", "test"))]
    assert find_leaks(paths, "recording", ("corpus", "path")) == []
    assert str(find_leaks(paths, "speaker", ("speaker",))[1]) == "speaker 'cy' stands in train and test"


def test_one_recording_in_all_splits_is_one_leak(tmp_path: Path) -> None:
    rows = [_row(number, "", split, path="show.opus") for number, split in enumerate(("train", "dev", "test"))]  # type: ignore[arg-type]
    write_rows(tmp_path / "1.parquet", Utterance, rows)
    (leak,) = find_leaks([tmp_path / "1.parquet"], "recording", ("corpus", "path"))
    assert leak.splits == ("train", "dev", "test")


def test_without_rows_there_are_no_leaks(tmp_path: Path) -> None:
    write_rows(tmp_path / "1.parquet", Utterance, [])
    assert find_leaks([], "speaker", ("speaker",)) == []
    assert find_leaks([tmp_path / "1.parquet"], "speaker", ("speaker",)) == []


def test_the_same_bytes_in_two_splits_are_a_leak_that_is_shown_by_a_path(tmp_path: Path) -> None:
    """Also where names, corpora and files differ; rows whose content is not known are left out."""
    rows = [_row(1, "", "train", path="b.wav"), _row(2, "", "test", "d", path="a.wav"), _row(3, "", "dev")]
    contents = ("f00d", "f00d", "beef")
    known = [dataclasses.replace(row, content=content) for row, content in zip(rows, contents, strict=True)]
    write_rows(tmp_path / "1.parquet", Utterance, [*known[:1], _row(4, "", "train"), _row(5, "", "dev")])
    write_rows(tmp_path / "2.parquet", Utterance, known[1:])
    (leak,) = find_leaks([tmp_path / "1.parquet", tmp_path / "2.parquet"], "content of", ("content",), shown="path")
    assert str(leak) == "content of 'a.wav' stands in train and test"
