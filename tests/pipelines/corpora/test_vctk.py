"""VCTK: every utterance is read once, whichever microphone, text or folder is missing."""

from __future__ import annotations

from typing import Any

import pytest

from flowse.errors import UserError

NEW, OLD = "VCTK-Corpus-0.92", "VCTK-Corpus"


@pytest.fixture
def corpus(bench: Any) -> Any:
    for stem in ("p225/p225_001", "p225/p225_002", "s5/s5_001"):
        for microphone in ("mic1", "mic2"):
            bench.audio(f"{NEW}/wav48_silence_trimmed/{stem}_{microphone}.flac", rate=48_000)
        bench.text(f"{NEW}/txt/{stem}.txt", f"Text of {stem}.\n")
    # p280 and p315 lack the second microphone, p315 its texts, p362 some recordings.
    for stem in ("p280/p280_001_mic1", "p315/p315_001_mic1"):
        bench.audio(f"{NEW}/wav48_silence_trimmed/{stem}.flac", rate=48_000)
    bench.text(f"{NEW}/txt/p280/p280_001.txt", "Please call Stella.")
    bench.text(f"{NEW}/txt/p362/p362_009.txt", "Nobody recorded this.")
    bench.text(
        f"{NEW}/speaker-info.txt",
        "ID  AGE  GENDER  ACCENTS  REGION COMMENTS\np225  23  F    English    Southern  England\n",
    )
    bench.audio(f"{NEW}/wav48_silence_trimmed/p225/._p225_001_mic2.flac", "__MACOSX/VCTK-Corpus-0.92/x.flac")
    return bench


def test_every_utterance_is_read_once_from_the_second_microphone_if_it_has_one(corpus: Any) -> None:
    found = corpus.measure("vctk")
    prefix = f"{NEW}/wav48_silence_trimmed/"
    assert [(row.path.removeprefix(prefix), row.speaker, row.text) for row in found.kept] == [
        ("p225/p225_001_mic2.flac", "p225", "Text of p225/p225_001."),
        ("p225/p225_002_mic2.flac", "p225", "Text of p225/p225_002."),
        ("p280/p280_001_mic1.flac", "p280", "Please call Stella."),
        ("p315/p315_001_mic1.flac", "p315", ""),
        ("s5/s5_001_mic2.flac", "s5", "Text of s5/s5_001."),
    ]
    assert {(row.language, row.licence, row.sample_rate) for row in found.kept} == {("en", "CC-BY-4.0", 48_000)}
    assert [(name, reject.reason) for name, reject in found.rejects.items()] == [
        ("c/vctk-corpus-0-92/wav48_silence_trimmed/p362/p362_009_mic2-flac", "not_found")
    ]


def test_the_first_microphone_may_be_chosen_and_speakers_left_out(corpus: Any) -> None:
    rows = corpus.read("vctk", microphone="mic1", leave_out=["p225", "p362"])
    assert [row.path.rpartition("/")[2] for row in rows] == [
        "p280_001_mic1.flac",
        "p315_001_mic1.flac",
        "s5_001_mic1.flac",
    ]


def test_speakers_can_be_chosen_or_left_out(corpus: Any) -> None:
    every = {row.path for row in corpus.read("vctk")}
    some = {row.path for row in corpus.read("vctk", speakers=["p225", "p362"])}
    assert some
    assert every - some == {row.path for row in corpus.read("vctk", leave_out=["p225", "p362"])}


def test_all_utterances_of_lhotses_recipe_are_read_with_the_same_texts_and_more(corpus: Any) -> None:
    from lhotse.recipes.vctk import prepare_vctk

    (corpus.root / NEW / "txt/p362/p362_009.txt").unlink()
    for hidden in corpus.root.rglob("._*"):
        hidden.unlink()
    manifests = prepare_vctk(corpus.root / NEW, use_edinburgh_vctk_url=True, mic_id="mic2")
    expected = {
        (f"{supervision.id}.flac", supervision.speaker, supervision.text) for supervision in manifests["supervisions"]
    }
    rows = {(row.path.rpartition("/")[2], row.speaker, row.text) for row in corpus.read("vctk")}
    assert rows - expected == {
        ("p280_001_mic1.flac", "p280", "Please call Stella."),
        ("p315_001_mic1.flac", "p315", ""),
    }
    assert expected <= rows


def test_the_older_layout_is_read_too(bench: Any) -> None:
    bench.audio(f"{OLD}/wav48/p225/p225_001.wav", f"{OLD}/wav48/p226/p226_001.WAV", rate=48_000)
    bench.text(f"{OLD}/txt/p226/p226_001.TXT", "Please\ncall  Stella.")
    found = bench.measure("vctk")
    assert [(row.speaker, row.text) for row in found.kept] == [("p225", ""), ("p226", "Please call Stella.")]


def test_a_text_in_another_encoding_is_read(corpus: Any) -> None:
    (corpus.root / NEW / "txt/p280/p280_001.txt").write_bytes("A café.".encode("latin-1"))
    (found,) = [row.text for row in corpus.read("vctk") if row.speaker == "p280"]
    assert found.startswith("A caf")


def test_the_digest_sees_recordings_and_texts(corpus: Any) -> None:
    assert corpus.changes("vctk", lambda: corpus.text(f"{NEW}/txt/p315/p315_001.txt", "Found."))
    assert corpus.changes("vctk", lambda: corpus.audio(f"{NEW}/wav48_silence_trimmed/p280/p280_001_mic2.flac"))


def test_mistakes_are_named(bench: Any) -> None:
    with pytest.raises(UserError, match="has no folder wav48_silence_trimmed or wav48"):
        bench.read("vctk")
    for wrong, message in (("p232", r"a list is needed: \[p232\]"), (["232"], "must be a list of speakers")):
        with pytest.raises(UserError, match=rf"leave_out.* {message}"):
            bench.read("vctk", leave_out=wrong)
        with pytest.raises(UserError, match=rf"speakers.* {message}"):
            bench.read("vctk", speakers=wrong)
        with pytest.raises(UserError, match=rf"leave_out.* {message}"):
            bench.read("dns", leave_out_speakers=wrong)
    with pytest.raises(UserError, match="microphone is 'mic3'; allowed: mic1, mic2"):
        bench.read("vctk", microphone="mic3")
