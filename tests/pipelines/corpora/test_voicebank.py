"""VoiceBank-DEMAND: only the clean halves are read, in Valentini's layout."""

from __future__ import annotations

from typing import Any

import pytest

from flowse.errors import UserError


@pytest.fixture
def corpus(bench: Any) -> Any:
    for state in ("clean", "noisy"):
        bench.audio(f"{state}_trainset_28spk_wav/p226_001.wav", f"{state}_trainset_28spk_wav/p287_002.wav", rate=48_000)
        bench.audio(f"{state}_testset_wav/p232_001.wav", rate=48_000)
    bench.text("trainset_28spk_txt/p226_001.txt", "Please call Stella.\n")
    bench.text("log_testset.txt", "p232_001 bus 17.5\n")
    bench.audio("clean_testset_wav/._p232_001.wav", "__MACOSX/clean_testset_wav/p232_001.wav")
    return bench


def test_the_clean_halves_are_read_with_text_speaker_and_split(corpus: Any) -> None:
    found = corpus.measure("voicebank")
    assert [(row.path, row.speaker, row.text, row.split) for row in found.kept] == [
        ("clean_testset_wav/p232_001.wav", "p232", "", "test"),
        ("clean_trainset_28spk_wav/p226_001.wav", "p226", "Please call Stella.", "train"),
        ("clean_trainset_28spk_wav/p287_002.wav", "p287", "", "train"),
    ]
    assert {(row.language, row.licence) for row in found.kept} == {("en", "CC-BY-4.0")}
    assert not found.rejects


def test_parts_can_be_chosen_and_splits_left_to_ingest(corpus: Any) -> None:
    rows = corpus.read("voicebank", parts=["trainset_28spk"], use_split=False)
    assert [(row.speaker, row.split) for row in rows] == [("p226", None), ("p287", None)]


def test_equal_names_of_two_parts_stay_apart(corpus: Any) -> None:
    corpus.audio("clean_trainset_56spk_wav/p226_001.wav")
    assert len({row.utt_id for row in corpus.read("voicebank")}) == 4


def test_the_digest_sees_recordings_and_texts(corpus: Any) -> None:
    assert corpus.changes("voicebank", lambda: corpus.text("testset_txt/p232_001.txt", "Found."))
    assert corpus.changes("voicebank", lambda: corpus.audio("clean_testset_wav/p257_001.wav"))


def test_mistakes_are_named(corpus: Any) -> None:
    with pytest.raises(UserError, match="has no folder clean_trainset_56spk_wav"):
        corpus.read("voicebank", parts=["trainset_56spk"])
    for folder in list(corpus.root.glob("clean_*")):
        folder.rename(corpus.root / f"my_{folder.name}")
    with pytest.raises(UserError, match="has no folder clean_trainset_28spk_wav"):
        corpus.read("voicebank")
