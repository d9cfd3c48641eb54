"""ESC-50: folds become splits, voices are left out, and clips of one recording are in one split."""

from __future__ import annotations

from typing import Any

import pytest

from flowse.errors import UserError

CLIPS = [
    ("1-100032-A-0.wav", 1, "dog", True, 100032),
    ("1-100032-B-0.wav", 1, "dog", True, 100032),
    ("2-17742-A-12.wav", 2, "crackling_fire", False, 17742),
    ("4-1-A-20.wav", 4, "crying_baby", False, 1),
    ("4-2-A-46.wav", 4, "church_bells", False, 2),
    ("5-3-A-36.wav", 5, "vacuum_cleaner", False, 3),
]


@pytest.fixture
def corpus(bench: Any) -> Any:
    bench.audio(*(f"ESC-50-master/audio/{clip[0]}" for clip in CLIPS), seconds=0.4, rate=44_100)
    lines = [f"{name},{fold},0,{category},{esc10},{source},A\n" for name, fold, category, esc10, source in CLIPS]
    bench.text("ESC-50-master/meta/esc50.csv", "filename,fold,target,category,esc10,src_file,take\n" + "".join(lines))
    return bench


def test_clips_have_the_split_of_their_fold_their_source_and_their_licence(corpus: Any) -> None:
    found = corpus.measure("esc50", "noise")
    assert [(row.path.rpartition("/")[2], row.speaker, row.split, row.licence) for row in found.kept] == [
        ("1-100032-A-0.wav", "100032", "train", "CC-BY-3.0"),
        ("1-100032-B-0.wav", "100032", "train", "CC-BY-3.0"),
        ("2-17742-A-12.wav", "17742", "train", "CC-BY-NC-3.0"),
        ("4-2-A-46.wav", "2", "dev", "CC-BY-NC-3.0"),
        ("5-3-A-36.wav", "3", "test", "CC-BY-NC-3.0"),
    ]
    assert found.reasons == ["human_voice"]


def test_voices_can_be_kept_and_other_categories_left_out(corpus: Any) -> None:
    found = corpus.measure("esc50", "noise", voices=True, leave_out=["church_bells"])
    assert found.reasons == ["left_out"]
    assert len(found.kept) == 5


def test_without_folds_the_split_follows_the_source(corpus: Any) -> None:
    found = corpus.measure("esc50", "noise", use_split=False)
    assert len({row.split for row in found.kept if row.speaker == "100032"}) == 1
    assert {row.split for row in corpus.read("esc50", "noise", use_split=False)} == {None}


def test_a_clip_without_a_row_is_read_and_a_row_without_a_clip_is_rejected(corpus: Any) -> None:
    corpus.audio("ESC-50-master/audio/mine.wav")
    (corpus.root / "ESC-50-master/audio/5-3-A-36.wav").unlink()
    found = corpus.measure("esc50", "noise")
    assert "ESC-50-master/audio/mine.wav" in found.paths
    assert found.reasons == ["human_voice", "not_found"]


def test_the_digest_sees_clips_and_table(corpus: Any) -> None:
    assert corpus.changes("esc50", lambda: corpus.audio("ESC-50-master/audio/new.wav"))
    assert corpus.changes("esc50", lambda: corpus.text("ESC-50-master/meta/esc50.csv", "filename\n"))


def test_mistakes_are_named(corpus: Any) -> None:
    with pytest.raises(UserError, match="share 4"):
        corpus.read("esc50", "noise", dev_folds=[4], test_folds=[4, 5])
    with pytest.raises(UserError, match="has no category chruch_bells"):
        corpus.read("esc50", "noise", leave_out=["chruch_bells"])
    corpus.text("ESC-50-master/meta/esc50.csv", "file,fold\nx,1\n")
    with pytest.raises(UserError, match="column 'filename' is missing"):
        corpus.read("esc50", "noise")
