"""Laws of the rows before ingest: one identity a file, nothing outside the root, and a reason for each refusal."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flowse.data.manifest import Utterance
from pipelines.corpora import Unfit
from pipelines.corpora.checked_rows import KnownFiles, KnownIds, remarks, rows_of
from pipelines.corpora.config import CorpusConfig
from pipelines.corpora.readers import reader_of


def listed(root: Path, known: KnownFiles | None = None, name: str = "c", **options: object) -> list[Utterance]:
    corpus = CorpusConfig(name=name, root=str(root), options=options)
    return list(rows_of("speech", corpus, root, 0, known or KnownFiles()))


def refused(rows: list[Utterance]) -> dict[str, str]:
    return {row.path: row.reason for row in rows if isinstance(row, Unfit)}


def kept(rows: list[Utterance]) -> list[str]:
    return [row.path for row in rows if not isinstance(row, Unfit)]


def test_a_file_under_two_names_counts_once_and_the_second_names_the_first(bench: Any) -> None:
    bench.audio("a/x.wav", "b.wav")
    (bench.root / "a" / "z.wav").symlink_to(bench.root / "a" / "x.wav")
    (bench.root / "a.wav").symlink_to("b.wav")
    rows = listed(bench.root)
    assert kept(rows) == ["a.wav", "a/x.wav"]
    assert refused(rows) == {"b.wav": "same_file", "a/z.wav": "same_file"}
    assert "b.wav: is the same file as a.wav; remove" in str(rows[1].detail)  # type: ignore[attr-defined]


def test_a_hard_link_is_the_file_that_it_links_to(bench: Any) -> None:
    bench.audio("a.wav", "d.wav")
    (bench.root / "b.wav").hardlink_to(bench.root / "a.wav")
    (bench.root / "c.wav").symlink_to("b.wav")
    (bench.root.parent / "elsewhere.wav").hardlink_to(bench.root / "d.wav")
    rows = listed(bench.root)
    assert kept(rows) == ["a.wav", "d.wav"]
    assert refused(rows) == {"b.wav": "same_file", "c.wav": "same_file"}


def test_segments_of_a_file_are_no_copies_but_those_of_a_link_to_it_are(bench: Any) -> None:
    bench.audio("x.wav", seconds=1.0)
    (bench.root / "y.wav").symlink_to("x.wav")
    bench.text("t.csv", "path,offset_s,duration_s\nx.wav,0,0.4\nx.wav,0.4,0.4\ny.wav,0.8,0.1\n")
    rows = listed(bench.root, table="t.csv")
    assert kept(rows) == ["x.wav", "x.wav"]
    assert refused(rows) == {"y.wav": "same_file"}


def test_two_corpora_of_a_kind_do_not_hold_the_same_file(bench: Any) -> None:
    bench.audio("sub/x.wav", "y.wav")
    known = KnownFiles()
    assert kept(listed(bench.root, known)) == ["y.wav", "sub/x.wav"]
    again = listed(bench.root / "sub", known, name="d")
    assert refused(again) == {"x.wav": "same_file"}
    assert "of corpus c" in str(again[0].detail)  # type: ignore[attr-defined]


@pytest.mark.parametrize("outside", [False, True])
def test_only_a_corpus_that_says_so_reads_outside_its_root(bench: Any, outside: bool) -> None:
    bench.audio("x.wav", "../elsewhere/y.wav", "../elsewhere/folder/z.wav", "../elsewhere/absolute.wav")
    elsewhere = bench.root.parent / "elsewhere"
    (bench.root / "link.wav").symlink_to(elsewhere / "y.wav")
    (bench.root / "links").symlink_to(elsewhere / "folder")
    bench.text("t.csv", f"path\n../elsewhere/y.wav\n{elsewhere}/absolute.wav\n/etc/passwd\n../../../../etc/passwd\n")
    rows = listed(bench.root, table="t.csv", outside=outside)
    absolute = f"{elsewhere}/absolute.wav"
    if outside:
        assert kept(rows)[:4] == ["link.wav", "x.wav", "links/z.wav", "../../../../etc/passwd"]
        assert absolute in kept(rows)
        assert refused(rows) == {}
    else:
        assert kept(rows) == ["x.wav"]
        assert set(refused(rows).values()) == {"outside_root"}
        assert all("options.outside: true" in row.detail for row in rows if isinstance(row, Unfit))


def test_the_option_outside_leaves_digests_of_before_as_they_were(bench: Any) -> None:
    bench.audio("x.wav")
    assert bench.digest("folder") == bench.digest("folder", outside=False) != bench.digest("folder", outside=True)


@pytest.mark.parametrize(("reader", "options"), [("manifest", {}), ("lhotse", {"cuts": "cuts.jsonl"})])
def test_other_lists_of_paths_have_the_option_too(reader: str, options: dict[str, str]) -> None:
    assert reader_of(reader, {**options, "outside": True}, "c")[1].outside


@pytest.mark.parametrize(
    ("times", "reason"),
    [("-0.5,1", "bad_times"), (",nan", "bad_times"), ("0.1,-1", "bad_times"), ("0,inf", "bad_times"), (",", None)],
)
def test_impossible_times_are_refused_row_by_row(bench: Any, times: str, reason: str | None) -> None:
    bench.audio("x.wav", "good.wav")
    bench.text("t.csv", f"path,offset_s,duration_s\nx.wav,{times}\n")
    found = bench.measure("folder", table="t.csv")
    assert found.reasons == ([reason] if reason else [])
    assert "good.wav" in found.paths


def test_names_that_no_format_can_hold_are_refused_and_the_others_kept(bench: Any) -> None:
    bench.audio("x.wav")
    os.rename(bench.root / "x.wav", os.fsencode(bench.root) + b"/\xc4\xe3.wav")  # noqa: PTH104
    bench.audio("good.wav")
    bench.text("t.csv", f"path,text\ngood.wav,x\n{'y' * 300}.wav,y\n{'deep/' * 900}z.wav,z\n")
    found = bench.measure("folder", table="t.csv")
    assert found.paths == ["good.wav"]
    assert found.reasons == ["bad_path", "bad_path", "not_utf8"]
    assert any(r"\xc4\xe3.wav: the name is not UTF-8" in reject.detail for reject in found.rejects.values())


@pytest.mark.parametrize("order", [sorted, lambda names: sorted(names, reverse=True)])
def test_paths_with_the_same_id_are_told_apart_and_rows_of_the_same_place_are_not(
    order: Callable[[list[str]], list[str]],
) -> None:
    ids = KnownIds()
    paths = order(["session.1/x.wav", "session-1/x.wav", "Session-1/x.wav", "session-1/x-wav"])
    rows = [Utterance(utt_id="c/session-1/x-wav", corpus="c", kind="speech", path=path) for path in paths]
    placed = [ids.place(row) for row in rows]
    assert len({row.utt_id for row, _ in placed}) == len(paths)
    assert placed[0][0].utt_id == "c/session-1/x-wav"
    assert not any(again for _, again in placed)
    assert all(again for _, again in map(ids.place, rows))


def test_what_table_and_files_do_not_share_is_said(bench: Any) -> None:
    bench.audio("x.wav", "y.wav", "z.wav")
    bench.text("t.csv", "path,text,speakr\n./x.wav,one,a\ntypo.wav,two,b\n")
    corpus = CorpusConfig(name="c", root=str(bench.root), options={"table": "t.csv"})
    assert remarks([("speech", corpus)], {"c": bench.root}) == [
        "corpus c: t.csv: column 'speakr' is not read; is 'speaker' meant?",
        "corpus c: t.csv: 2 of 3 recordings have no row, e.g. y.wav; they are read without what the table says",
        "corpus c: t.csv: 1 of 2 rows name no file, e.g. typo.wav; they become reject rows",
    ]
