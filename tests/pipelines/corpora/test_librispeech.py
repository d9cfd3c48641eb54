"""LibriSpeech: chapters with their transcripts, parts with their splits."""

from __future__ import annotations

from typing import Any

import pytest

from flowse.errors import UserError

FILES = {
    "train-clean-100/19/198": ["19-198-0000.flac", "19-198-0001.flac"],
    "train-other-500/20/205": ["20-205-0000.flac"],
    "dev-clean/84/121123": ["84-121123-0000.flac"],
    "test-other/367/130732": ["367-130732-0000.FLAC"],
}


@pytest.fixture
def corpus(bench: Any) -> Any:
    for chapter, names in FILES.items():
        bench.audio(*(f"LibriSpeech/{chapter}/{name}" for name in names))
        lines = [f"{name.split('.')[0]} TEXT OF {name.split('.')[0]}\n" for name in names]
        bench.text(f"LibriSpeech/{chapter}/{names[0].rpartition('-')[0]}.trans.txt", "".join(lines))
    bench.audio("LibriSpeech/train-clean-100/19/198/._19-198-0000.flac", "LibriSpeech/__MACOSX/dev-clean/x.flac")
    bench.text("LibriSpeech/SPEAKERS.TXT", "19 | F | train-clean-100 | 25.0 | Ann\n")
    return bench


def test_every_recording_has_its_text_speaker_and_split(corpus: Any) -> None:
    found = corpus.measure("librispeech")
    assert {(row.path.removeprefix("LibriSpeech/"), row.text, row.speaker, row.split) for row in found.kept} == {
        ("train-clean-100/19/198/19-198-0000.flac", "TEXT OF 19-198-0000", "19", "train"),
        ("train-clean-100/19/198/19-198-0001.flac", "TEXT OF 19-198-0001", "19", "train"),
        ("train-other-500/20/205/20-205-0000.flac", "TEXT OF 20-205-0000", "20", "train"),
        ("dev-clean/84/121123/84-121123-0000.flac", "TEXT OF 84-121123-0000", "84", "dev"),
        ("test-other/367/130732/367-130732-0000.FLAC", "TEXT OF 367-130732-0000", "367", "test"),
    }
    assert {(row.language, row.licence) for row in found.kept} == {("en", "CC-BY-4.0")}
    assert not found.rejects


def test_texts_and_speakers_are_those_of_lhotses_recipe(corpus: Any) -> None:
    from lhotse.recipes.librispeech import prepare_librispeech

    # The recipe reads lower-case suffixes only.
    parts = ["train-clean-100", "train-other-500", "dev-clean"]
    manifests = prepare_librispeech(corpus.root / "LibriSpeech", dataset_parts=parts)
    expected = {(label.id, label.text, label.speaker) for part in manifests.values() for label in part["supervisions"]}
    rows = corpus.read("librispeech", parts=parts)
    assert {(row.path.split("/")[-1].split(".")[0], row.text, row.speaker) for row in rows} == expected


def test_a_recording_without_a_text_is_kept_and_a_text_without_a_recording_rejected(corpus: Any) -> None:
    corpus.audio("LibriSpeech/dev-clean/84/121123/84-121123-0007.flac")
    trans = corpus.root / "LibriSpeech/dev-clean/84/121123/84-121123.trans.txt"
    trans.write_text(trans.read_text() + "84-121123-0009 GONE\n")
    found = corpus.measure("librispeech", parts=["dev-clean"])
    assert [(row.path[-9:], row.text) for row in found.kept] == [
        ("0000.flac", "TEXT OF 84-121123-0000"),
        ("0007.flac", ""),
    ]
    assert [(name[-9:], reject.reason) for name, reject in found.rejects.items()] == [("0009-flac", "not_found")]


def test_parts_can_be_chosen_and_splits_left_to_ingest(corpus: Any) -> None:
    rows = corpus.read("librispeech", parts=["train-other-500", "dev-clean"], use_split=False)
    assert [(row.speaker, row.split) for row in rows] == [("84", None), ("20", None)]


def test_the_digest_sees_recordings_and_texts(corpus: Any) -> None:
    assert corpus.changes("librispeech", lambda: corpus.audio("LibriSpeech/dev-clean/84/121123/84-121123-0001.flac"))
    assert corpus.changes("librispeech", lambda: corpus.text("LibriSpeech/dev-clean/84/121123/84-121123.trans.txt", ""))


def test_mistakes_are_named(corpus: Any) -> None:
    with pytest.raises(UserError, match="has no folder test-clean there"):
        corpus.read("librispeech", parts=["test-clean"])
    with pytest.raises(UserError, match="parts: train-clean; allowed: train-clean-100"):
        corpus.read("librispeech", parts=["train-clean"])
    (corpus.root / "LibriSpeech").rename(corpus.root / "elsewhere")
    with pytest.raises(UserError, match="has no folder of LibriSpeech's"):
        corpus.read("librispeech")
