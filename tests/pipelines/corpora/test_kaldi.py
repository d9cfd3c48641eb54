"""Data folders of Kaldi and ESPnet: what their lists say, and what of it cannot be read here."""

from __future__ import annotations

from typing import Any

import pytest

from flowse.errors import UserError


@pytest.fixture
def corpus(bench: Any) -> Any:
    bench.audio("wav/a.flac", "wav/b.wav", "wav/long.flac", seconds=2.0)
    bench.text("data/train/wav.scp", f"u-a wav/a.flac\nu-b {bench.root}/wav/b.wav\n")
    bench.text("data/train/text", "u-a HELLO THERE\nu-b\n")
    bench.text("data/train/utt2spk", "u-a ann\nu-b u-b\n")
    bench.text("data/train/utt2lang", "u-b zh-CN\n")
    bench.text("data/dev_clean/wav.scp", "long wav/long.flac\n")
    bench.text("data/dev_clean/segments", "s1 long 0.0 0.75\ns2 long 0.75 1.5\ns3 long 0 -1\n")
    bench.text("data/dev_clean/text", "s1 one\ns2 two words\n")
    return bench


BOTH = {"data": ["data/train", "data/dev_clean"], "language": "en"}


def test_every_utterance_has_what_its_lists_say(corpus: Any) -> None:
    found = corpus.measure("kaldi", **BOTH)
    assert [
        (row.path, row.offset_s, row.duration_s, row.text, row.speaker, row.language, row.split)
        for row in corpus.read("kaldi", **BOTH)
    ] == [
        ("wav/a.flac", 0.0, 0.0, "HELLO THERE", "ann", "en", "train"),
        ("wav/b.wav", 0.0, 0.0, "", "", "zh", "train"),
        ("wav/long.flac", 0.0, 0.75, "one", "", "en", "dev"),
        ("wav/long.flac", 0.75, 0.75, "two words", "", "en", "dev"),
        ("wav/long.flac", 0.0, 0.0, "", "", "en", "dev"),
    ]
    assert sorted(row.duration_s for row in found.kept) == [0.75, 0.75, 2.0, 2.0, 2.0]
    assert not found.rejects


def test_what_lhotse_reads_is_the_same(corpus: Any) -> None:
    from lhotse.kaldi import load_kaldi_data_dir

    corpus.text("data/dev_clean/utt2spk", "s1 x\ns2 y\ns3 z\n")
    corpus.text("data/dev_clean/wav.scp", f"long {corpus.root}/wav/long.flac\n")
    corpus.text("data/dev_clean/segments", "s1 long 0.0 0.75\ns2 long 0.75 1.5\n")
    _, supervisions, _ = load_kaldi_data_dir(corpus.root / "data/dev_clean", sampling_rate=16_000)
    expected = {(label.id, label.start, label.duration, label.text, label.speaker) for label in supervisions}
    rows = corpus.read("kaldi", data=["data/dev_clean"])
    assert {
        (row.utt_id.split("/")[-1], row.offset_s, row.duration_s, row.text, row.speaker) for row in rows
    } == expected


def test_what_does_not_fit_is_rejected_and_nothing_is_lost(corpus: Any) -> None:
    corpus.text("data/dev_clean/segments", "s0 gone 0 1\ns1 long 1 0.5\ns2 long 0.5 1.5\ns4 long 0 1 A\n")
    corpus.text("data/dev_clean/text", "a no utterance\ns2 two\nz none either\n")
    found = corpus.measure("kaldi", data=["data/dev_clean"])
    assert [row.text for row in found.kept] == ["two"]
    assert found.reasons == ["bad_times", "bad_times", "not_found", "not_found", "not_found"]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("wav.scp", "u-a sph2pipe -f wav a.sph |\n", "is a command .* write the audio to files"),
        ("wav.scp", "u-a cat a.wav | sox - |\n", "is a command"),
        ("wav.scp", "u-a dump/wav.3.ark:1234\n", "lies in an archive"),
        ("wav.scp", "u-a\n", "names no file"),
        ("wav.scp", "u-a /elsewhere/a.wav\n", "does not lie below the root"),
        ("wav.scp", "u-b wav/b.wav\nu-a wav/a.flac\n", r"u-a comes after u-b; .*fix_data_dir\.sh"),
        ("wav.scp", "u-a wav/b.wav\nu-a wav/a.flac\n", "comes after u-a"),
        ("text", "u-b x\nu-a y\n", "u-a comes after u-b"),
        ("segments", "s u-a 0\n", "a line is `utterance recording start end`"),
        ("segments", "s u-a zero one\n", "times in seconds"),
    ],
)
def test_lists_that_cannot_be_read_are_one_line(corpus: Any, name: str, content: str, said: str) -> None:
    corpus.text(f"data/train/{name}", content)
    with pytest.raises(UserError, match=said):
        corpus.read("kaldi", data=["data/train"])


def test_a_folder_without_wav_scp_and_a_list_that_is_not_utf8_are_named(corpus: Any) -> None:
    with pytest.raises(UserError, match=r"has no wav\.scp there"):
        corpus.read("kaldi")
    (corpus.root / "data/train/text").write_bytes(b"u-a \xff\n")
    with pytest.raises(UserError, match="byte 4 is not UTF-8"):
        corpus.read("kaldi", data=["data/train"])
    with pytest.raises(UserError, match="a list is needed"):
        corpus.read("kaldi", data="data/train")
    with pytest.raises(UserError, match="must be a list of folders"):
        corpus.read("kaldi", data=[])


def test_moved_audio_is_found_and_a_change_of_lists_or_audio_changes_the_digest(corpus: Any) -> None:
    corpus.text("data/train/wav.scp", "u-a /old/place/wav/a.flac\nu-b wav/b.wav\n")
    moved = {"data": ["data/train"], "moved_from": "/old/place"}
    assert corpus.measure("kaldi", **moved).paths == ["wav/a.flac", "wav/b.wav"]
    assert corpus.changes("kaldi", lambda: corpus.text("data/train/text", "u-a OTHER\n"), **moved)
    assert corpus.changes("kaldi", lambda: corpus.audio("wav/a.flac", seconds=1.0), **moved)
    assert not corpus.changes("kaldi", lambda: corpus.audio("wav/long.flac", seconds=1.0), **moved)


def test_names_of_folders_decide_the_split_unless_told_otherwise(corpus: Any) -> None:
    for folder, split in (("test-other", "test"), ("Valid", "dev"), ("eval1", None), ("eval_2", "test"), ("x", None)):
        corpus.text(f"{folder}/wav.scp", "u-a wav/a.flac\n")
        assert [row.split for row in corpus.read("kaldi", data=[folder])] == [split]
        assert [row.split for row in corpus.read("kaldi", data=[folder], use_split=False)] == [None]
