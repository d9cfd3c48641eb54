"""Laws of test sets: the choice is stable, clean versions are found by name or number, what is missing is named."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from flowse.data.shards import IndexRow, write_index
from flowse.errors import UserError
from flowse.metrics.pairs import Pairs
from flowse.metrics.testsets import (
    NOISE_ONLY,
    Item,
    choose,
    choose_simulated,
    collect,
    examples,
    folder_items,
    read_item,
    transcript_notes,
)
from flowse.refusal import Refusal


def item(key: str) -> Item:
    return Item(key=key, test_set="simulated", seconds=1.0)


def row(key: str, split: str = "test") -> IndexRow:
    numbers = "copy samples clean_offset clean_bytes noisy_offset noisy_bytes json_offset json_bytes shard_bytes"
    texts = "utt_id text language speaker corpus licence room_id sha256 content"
    return IndexRow(
        key=key,
        shard="test-00000.tar",
        split=split,  # type: ignore[arg-type]
        seconds=1.0,
        snr_db=2.0,
        **dict.fromkeys(numbers.split(), 0),
        **dict.fromkeys(texts.split(), ""),
    )


def write(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    sf.write(path, np.full(1600, 0.1), 16_000)


def test_more_data_moves_no_item_out_of_a_choice() -> None:
    few = [item(f"u{i}") for i in range(50)]
    more = few + [item(f"v{i}") for i in range(50)]
    chosen = {item.key for item in choose(few, 10)}
    assert len(chosen) == 10
    old = [item.key for item in choose(more, 20) if item.key.startswith("u")]
    # The old items that are still chosen are those that were chosen first.
    assert set(old) <= {item.key for item in choose(few, 20)}
    assert choose(few[::-1], 10) == choose(few, 10)
    assert choose(few, 0) == sorted(few, key=lambda item: item.key)


def test_only_the_test_split_is_used(tmp_path: Path) -> None:
    rows = [*(row(f"t{i}") for i in range(6)), *(row(f"x{i}", "train") for i in range(6))]
    write_index(tmp_path / "index.parquet", rows)
    items = collect(tmp_path / "index.parquet", (), 0)
    assert [item.key for item in items] == [f"t{i}" for i in range(6)]


def test_examples_come_from_every_test_set_and_stay_with_more_data() -> None:
    items = [Item(key=f"{name}/{n}", test_set=name, seconds=1.0) for name in ("a", "b") for n in range(9)]
    chosen = examples(items, 4)
    assert [item.test_set for item in chosen] == ["a", "a", "b", "b"]
    assert examples(items, 0) == []
    assert len(examples(items, 100)) == 18
    assert {item.key for item in chosen} <= {item.key for item in examples(items, 6)}


def test_nothing_to_test_on_is_an_error(tmp_path: Path) -> None:
    write_index(tmp_path / "index.parquet", [row("a", "train")])
    with pytest.raises(UserError, match="no test mixtures"):
        collect(tmp_path / "index.parquet", (), 0)


def test_partners_by_name_whatever_the_suffix_and_by_number(tmp_path: Path) -> None:
    write(tmp_path / "noisy" / "a" / "x.wav")
    write(tmp_path / "clean" / "a" / "x.flac")
    write(tmp_path / "noisy" / "clnsp_snr5_fileid_12.wav")
    write(tmp_path / "clean" / "clean_fileid_12.wav")
    pairs = Pairs(name="p", noisy=str(tmp_path / "noisy"), clean=str(tmp_path / "clean"), language="en")
    found = {item.key: item.clean.name for item in folder_items(pairs) if item.clean}
    assert found == {"p/a/x.wav": "x.flac", "p/clnsp_snr5_fileid_12.wav": "clean_fileid_12.wav"}
    assert {item.language for item in folder_items(pairs)} == {"en"}


def test_what_macos_adds_to_an_archive_is_no_recording(tmp_path: Path) -> None:
    write(tmp_path / "noisy" / "x.wav")
    (tmp_path / "noisy" / "._x.wav").write_bytes(b"Mac OS X")
    found = folder_items(Pairs(name="p", noisy=str(tmp_path / "noisy")))
    assert [item.key for item in found] == ["p/x.wav"]


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    write(tmp_path / "noisy" / "x.wav")
    write(tmp_path / "clean" / "y.wav")
    (tmp_path / "void").mkdir()
    noisy, clean = str(tmp_path / "noisy"), str(tmp_path / "clean")
    with pytest.raises(UserError, match=r"x\.wav has no clean version"):
        folder_items(Pairs(noisy=noisy, clean=clean))
    with pytest.raises(UserError, match="holds no recording"):
        folder_items(Pairs(noisy=str(tmp_path / "void")))
    with pytest.raises(UserError, match="cannot be read"):
        folder_items(Pairs(noisy=noisy, transcripts=str(tmp_path / "no.csv")))
    (tmp_path / "t.csv").write_text("file,words\nx.wav,hi\n")
    with pytest.raises(UserError, match="column 'path' is missing; it has: file, words"):
        folder_items(Pairs(noisy=noisy, transcripts=str(tmp_path / "t.csv")))


def test_transcripts_find_their_recordings_and_what_is_left_over_is_said(tmp_path: Path) -> None:
    for name in ("x.wav", "y.wav", "z.wav"):
        write(tmp_path / "noisy" / name)
    table = tmp_path / "t.csv"
    table.write_text("path,text,language\n./x.wav,hello,en\nY.wav,nan,\ntypo.wav,lost,\n")
    pairs = Pairs(name="p", noisy=str(tmp_path / "noisy"), transcripts=str(table), language="de")
    assert [(item.text, item.language) for item in folder_items(pairs)] == [("hello", "en"), ("nan", "de"), ("", "de")]
    assert transcript_notes(pairs) == [
        "evaluate.pairs p: t.csv: 1 of 3 rows name no recording, e.g. typo.wav",
        "evaluate.pairs p: t.csv: 1 of 3 recordings have no row, e.g. z.wav",
    ]
    for content, message in (
        ("path,text\nX1.wav,hello\n", "none of the 1 rows of .* names a recording"),
        ("path,text\nx.wav,a\n./x.wav,b\n", "line 3: x.wav stands here twice with different texts"),
        ("path,text\nx.wav,Hello, there\n", "line 2: has 3 cells"),
    ):
        table.write_text(content)
        with pytest.raises(UserError, match=f"evaluate.pairs p: .*{message}"):
            folder_items(pairs)


def test_a_name_that_is_not_utf8_has_a_key(tmp_path: Path) -> None:
    write(tmp_path / "noisy" / "x.wav")
    (tmp_path / "noisy" / "x.wav").rename(tmp_path / "noisy" / os.fsdecode(b"\xc4\xe3.wav"))
    pairs = Pairs(name="p", noisy=str(tmp_path / "noisy"))
    (item,) = folder_items(pairs)
    assert item.key == r"p/\xc4\xe3.wav"
    assert item.seconds > 0
    assert [outside.digest() for outside in pairs.outside().values()]


def test_versions_of_files_are_cut_to_one_length(tmp_path: Path) -> None:
    for name, samples in (("noisy", 1600), ("clean", 1590)):
        sf.write(tmp_path / f"{name}.wav", 0.1 * np.sin(np.arange(samples)), 16_000)
    files = Item(key="k", test_set="p", seconds=0.1, noisy=tmp_path / "noisy.wav", clean=tmp_path / "clean.wav")
    signals, rate = read_item(files)
    assert rate == 16_000
    assert {name: len(samples) for name, samples in signals.items()} == {"noisy": 1590, "clean": 1590}
    alone, _ = read_item(replace(files, clean=None))
    assert list(alone) == ["noisy"]
    with pytest.raises(Refusal, match="not_found"):
        read_item(replace(files, noisy=tmp_path / "gone.wav"))


def test_mixtures_without_speech_are_a_set_of_their_own_without_a_clean_version(tmp_path: Path) -> None:
    rows = [row(f"t{i}") for i in range(5)] + [replace(row(f"n{i}"), snr_db=-120.0) for i in range(5)]
    speech, silent = choose_simulated(rows, 2)
    assert [len(speech), len(silent)] == [2, 2]
    assert {(item.test_set, item.has_speech, item.snr_db) for item in silent} == {(NOISE_ONLY, False, None)}
    assert {(item.test_set, item.has_speech) for item in speech} == {("simulated", True)}


def test_a_folder_can_hold_noise_alone(tmp_path: Path) -> None:
    write(tmp_path / "noisy" / "x.wav")
    (item,) = folder_items(Pairs(name="street", noisy=str(tmp_path / "noisy"), noise_only=True))
    assert not item.has_speech
    with pytest.raises(ValueError, match="noise_only"):
        Pairs(name="street", noisy="x", clean="y", noise_only=True)
