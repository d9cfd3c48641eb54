"""The folder corpus: every file and every row of the table is read, or the mistake is named."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

from flowse.data.manifest import Utterance
from flowse.errors import UserError
from pipelines.corpora import folder


def tree(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, np.sin(np.arange(1600) / 5), 16000)
    return root


def read(root: Path, **options: object) -> list[Utterance]:
    return list(folder.read(root, "mine", "speech", folder.Options(**options), 0))  # type: ignore[arg-type]


def test_every_audio_file_is_read_once_in_order_whatever_its_format(tmp_path: Path) -> None:
    names = ["a/x.flac", "a/x.wav", "b/Y.ogg", "b/c/z.mp3"]
    rows = read(tree(tmp_path, *names, "b/.hidden.wav"))
    assert [row.path for row in rows] == sorted(names)
    assert len({row.utt_id for row in rows}) == len(names)
    assert all("." not in row.utt_id for row in rows)


def test_the_table_adds_its_columns_and_keeps_strings_as_they_are(tmp_path: Path) -> None:
    tree(tmp_path, "a/x.wav", "a/y.wav")
    (tmp_path / "t.csv").write_text('path,speaker,language,text\na/x.wav,007,no,"nan, null"\n', encoding="utf-8-sig")
    first, second = read(tmp_path, table="t.csv", language="en")
    assert (first.speaker, first.language, first.text, first.text_source) == ("007", "no", "nan, null", "corpus")
    assert (second.speaker, second.language, second.text, second.text_source) == ("", "en", "", "")


def test_rows_without_a_file_are_yielded_so_that_ingest_can_reject_them(tmp_path: Path) -> None:
    tree(tmp_path, "x.wav")
    (tmp_path / "t.csv").write_text("path\ngone.wav\nx.wav\n")
    assert [row.path for row in read(tmp_path, table="t.csv")] == ["x.wav", "gone.wav"]


def test_several_rows_of_a_path_are_its_segments(tmp_path: Path) -> None:
    tree(tmp_path, "x.wav")
    (tmp_path / "t.csv").write_text("path,offset_s,duration_s\nx.wav,0,0.05\nx.wav,0.05,0.05\n")
    rows = read(tmp_path, table="t.csv")
    assert [(row.offset_s, row.duration_s) for row in rows] == [(0.0, 0.05), (0.05, 0.05)]
    assert len({row.utt_id for row in rows}) == 2


def test_under_selects_a_part_of_the_tree_and_of_the_table(tmp_path: Path) -> None:
    tree(tmp_path, "train/x.wav", "dev/y.wav")
    (tmp_path / "t.csv").write_text("path,speaker\ntrain/x.wav,s\ndev/y.wav,d\n")
    rows = read(tmp_path, under="train", table="t.csv")
    assert [(row.path, row.speaker) for row in rows] == [("train/x.wav", "s")]


def test_the_speaker_is_found_in_the_path(tmp_path: Path) -> None:
    tree(tmp_path, "19-198-0001.wav")
    assert read(tmp_path, speaker_regex=r"^(\d+)-")[0].speaker == "19"


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (None, "table is missing"),
        ("file,text\nx.wav,hello\n", "column 'path' is missing; it has: file, text"),
        ("path,offset_s\nx.wav,soon\n", "line 2: offset_s is 'soon'"),
        ("path,split\nx.wav,validation\n", "split is 'validation'; allowed: train, dev, test"),
    ],
)
def test_a_mistake_in_the_table_is_named(tmp_path: Path, table: str | None, message: str) -> None:
    tree(tmp_path, "x.wav")
    if table is not None:
        (tmp_path / "t.csv").write_text(table)
    with pytest.raises(UserError, match=message):
        read(tmp_path, table="t.csv", use_split=True)


def test_a_missing_or_empty_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        read(tmp_path / "nowhere")
    with pytest.raises(UserError, match="no audio files"):
        read(tmp_path)


def test_the_listing_digest_follows_files_and_table(tmp_path: Path) -> None:
    tree(tmp_path, "x.wav")
    digests = [folder.listing_digest(tmp_path, folder.Options())]
    tree(tmp_path, "y.wav")
    digests.append(folder.listing_digest(tmp_path, folder.Options()))
    (tmp_path / "t.csv").write_text("path\nx.wav\n")
    digests.append(folder.listing_digest(tmp_path, folder.Options(table="t.csv")))
    (tmp_path / "t.csv").write_text("path,text\nx.wav,hello\n")
    digests.append(folder.listing_digest(tmp_path, folder.Options(table="t.csv")))
    assert len(set(digests)) == len(digests)
    assert digests[-1] == folder.listing_digest(tmp_path, folder.Options(table="t.csv"))


def test_the_listing_digest_sees_files_that_only_the_table_names_and_those_behind_links(bench: Any) -> None:
    """And files that were replaced by others of the same size and time."""
    bench.audio("x.wav", "../elsewhere/y.wav", "../elsewhere/z/z.wav")
    (bench.root / "raw.pcm").write_bytes(b"samples")
    elsewhere = bench.root.parent / "elsewhere"
    (bench.root / "links").symlink_to(elsewhere / "z")
    bench.text("t.csv", f"path,text\nx.wav,one\nraw.pcm,two\n{elsewhere}/y.wav,three\nnowhere.wav,four\n")
    for path in (bench.root / "raw.pcm", elsewhere / "y.wav", elsewhere / "z" / "z.wav", bench.root / "x.wav"):

        def replace(path: Path = path) -> None:
            times = path.stat()
            path.with_name("new").write_bytes(bytes(times.st_size))
            path.with_name("new").replace(path)
            os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))

        assert bench.changes("folder", replace, table="t.csv", outside=True)
    (bench.root / "other").mkdir()
    bench.audio("other/z.wav", "this/x.wav")
    bench.text("t.csv", "path\nother/z.wav\nthis/gone.wav\n")
    assert not bench.changes("folder", (bench.root / "other" / "z.wav").unlink, table="t.csv", under="this")
    (bench.root / "t.csv").write_text("no table")
    assert bench.digest("folder", table="t.csv")


def test_a_folder_is_visited_once_whatever_links_lead_to_it(bench: Any) -> None:
    """A version under two names, links of siblings to each other, a link to the folder itself and one to itself."""
    bench.audio("v2/x.wav", "a/y.wav", "b/z.wav")
    for link, target in {"latest": "v2", "a/b": "../b", "b/a": "../a", "all": ".", "self": "self"}.items():
        (bench.root / link).symlink_to(target)
    assert [row.path for row in bench.measure("folder").kept] == ["a/y.wav", "b/z.wav", "v2/x.wav"]


@pytest.mark.parametrize("name", ["long.opus", "long.m4a"])
def test_segments_of_a_long_recording_are_cut_while_reading(bench: Any, name: str) -> None:
    samples = 0.1 * np.random.default_rng(0).standard_normal(16_000 * 6).astype(np.float32)
    if name.endswith("m4a"):
        av = pytest.importorskip("av", reason="PyAV is not installed")
        with av.open(str(bench.root / name), "w", format="mp4") as container:
            stream = container.add_stream("aac", rate=16_000, layout="mono")
            frame = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 16_000, 0
            container.mux([*stream.encode(frame), *stream.encode(None)])
    else:
        soundfile.write(bench.root / name, samples, 16_000, format="OGG", subtype="OPUS")
    times = [(0.5, 2.0), (4.0, 2.03), (5.0, 3.0), (8.0, 1.0)]
    lines = [f"{name},{offset},{length},Mandarin\n" for offset, length in times]
    bench.text("t.csv", "path,offset_s,duration_s,language\n" + "".join(lines))
    found = bench.measure("folder", table="t.csv")
    assert [(row.offset_s, round(row.duration_s, 3), row.language) for row in found.kept] == [
        (0.5, 2.0, "zh"),
        (4.0, 2.0, "zh"),
    ]
    assert found.reasons == ["truncated", "truncated"]


def test_nulls_of_parquet_are_empty(tmp_path: Path) -> None:
    tree(tmp_path, "x.wav", "y.wav")
    columns = {"path": ["x.wav", "y.wav"], "text": ["hello", None], "speaker": [7, None], "offset_s": [0.01, None]}
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    first, second = read(tmp_path, table="t.parquet")
    assert (first.text, first.speaker, first.offset_s) == ("hello", "7", 0.01)
    assert (second.text, second.text_source, second.speaker, second.language, second.offset_s) == ("", "", "", "", 0.0)


@pytest.mark.parametrize("spelling", ["./{}", "{root}/{}", " {}", "a/../{}", ".//{}"])
def test_another_spelling_of_a_path_finds_its_file(spelling: str, tmp_path: Path) -> None:
    tree(tmp_path, "x.wav", "y.wav")
    lines = "".join(f"{spelling.format(name, root=tmp_path)},hello\n" for name in ("x.wav", "y.wav"))
    (tmp_path / "t.csv").write_text(f"path,text\n{lines}")
    assert [(row.path, row.text) for row in read(tmp_path, table="t.csv")] == [("x.wav", "hello"), ("y.wav", "hello")]


def test_a_table_of_other_files_is_refused(tmp_path: Path) -> None:
    tree(tmp_path, "x.wav")
    (tmp_path / "t.csv").write_text("path\nwavs/x.wav\n")
    with pytest.raises(UserError, match=r"none of the files that it names is there, e\.g\. 'wavs/x\.wav'.*'x\.wav'"):
        read(tmp_path, table="t.csv")


def test_a_group_of_the_speaker_that_takes_no_part_is_no_speaker(tmp_path: Path) -> None:
    tree(tmp_path, "x.wav")
    assert read(tmp_path, speaker_regex=r"x|(\d+)")[0].speaker == ""
