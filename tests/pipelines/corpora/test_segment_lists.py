"""Laws of segment lists: they are read one recording at a time, whatever the borders of the chunks."""

from __future__ import annotations

import gzip
import itertools
import json
import tracemalloc
from pathlib import Path

import pytest

from flowse.errors import UserError
from pipelines.corpora import segment_lists
from pipelines.corpora.segment_lists import recordings, segment_list

AUDIOS = [{"aid": f"é{n}", "text": '好 "]}{[, \\ ' * (n % 5), "segments": [{"n": n}] * (n % 7)} for n in range(30)]


@pytest.mark.parametrize("chunk", [1, 2, 7, 64, 10**6])
@pytest.mark.parametrize("indent", [None, 2])
def test_the_objects_are_those_of_json_load(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int, indent: int | None
) -> None:
    monkeypatch.setattr(segment_lists, "_CHUNK", chunk)
    path = tmp_path / "list.json"
    whole = {"version": "1", "audios": AUDIOS, "more": [1]}
    path.write_text(json.dumps(whole, indent=indent, ensure_ascii=False), encoding="utf-8")
    assert list(recordings(path)) == AUDIOS


def test_a_packed_list_is_read_too(tmp_path: Path) -> None:
    with gzip.open(tmp_path / "list.json.gz", "wt", encoding="utf-8") as file:
        json.dump({"audios": AUDIOS}, file)
    assert list(recordings(segment_list(tmp_path, "list.json"))) == AUDIOS


def test_memory_does_not_grow_with_the_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segment_lists, "_CHUNK", 2**14)
    path = tmp_path / "list.json"
    item = json.dumps({"segments": [{"text": "x" * 50, "n": n} for n in range(200)]})
    peaks = []
    for count in (10, 400):
        path.write_text('{"audios": [' + ", ".join([item] * count) + "]}")
        tracemalloc.start()
        assert sum(1 for _ in recordings(path)) == count
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0]


def test_objects_before_the_end_of_a_cut_list_are_read_and_the_cut_is_named(tmp_path: Path) -> None:
    path = tmp_path / "list.json"
    text = json.dumps({"audios": AUDIOS})
    path.write_text(text[: text.index('"n": 25')])
    rows = recordings(path)
    assert list(itertools.islice(rows, 25)) == AUDIOS[:25]
    with pytest.raises(UserError, match="cut or damaged behind recording 25"):
        next(rows)


@pytest.mark.parametrize("content", ["", "{}", '{"audio": []}', "<html></html>"])
def test_a_file_that_is_no_list_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "list.json"
    path.write_text(content)
    with pytest.raises(UserError, match='has no list "audios"'):
        list(recordings(path))


def test_a_missing_or_damaged_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is missing"):
        list(recordings(tmp_path / "list.json"))
    (tmp_path / "list.json.gz").write_bytes(b"no gzip")
    with pytest.raises(UserError, match="is damaged"):
        list(recordings(tmp_path / "list.json.gz"))
