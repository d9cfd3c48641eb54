"""DEMAND: a place is one recording, however many microphones and copies of it there are."""

from __future__ import annotations

from typing import Any

import pytest

from flowse.errors import UserError
from pipelines.corpora import Unfit


@pytest.fixture
def corpus(bench: Any) -> Any:
    for place in ("DKITCHEN", "TBUS"):
        bench.audio(*(f"{place}/ch{channel:02d}.wav" for channel in range(1, 17)), seconds=0.4)
    bench.audio("__MACOSX/DKITCHEN/ch01.wav", "DKITCHEN/._ch01.wav")
    return bench


def test_one_channel_of_every_place_is_read(corpus: Any) -> None:
    found = corpus.measure("demand", "noise")
    assert [(row.path, row.speaker, row.licence) for row in found.kept] == [
        ("DKITCHEN/ch01.wav", "DKITCHEN", "CC-BY-SA-3.0"),
        ("TBUS/ch01.wav", "TBUS", "CC-BY-SA-3.0"),
    ]


def test_all_channels_of_a_place_share_a_split(corpus: Any) -> None:
    found = corpus.measure("demand", "noise", channels=list(range(1, 17)))
    assert len(found.kept) == 32
    assert len({(row.speaker, row.split) for row in found.kept}) == 2


def test_the_copy_at_the_higher_rate_is_read_and_the_other_rejected(corpus: Any) -> None:
    (corpus.root / "16k").mkdir()
    (corpus.root / "DKITCHEN").rename(corpus.root / "16k" / "DKITCHEN")
    corpus.audio("48k/DKITCHEN/ch01.wav", "48k/SCAFE/ch01.wav", rate=48_000)
    found = corpus.measure("demand", "noise")
    assert found.paths == ["48k/DKITCHEN/ch01.wav", "48k/SCAFE/ch01.wav", "TBUS/ch01.wav"]
    assert found.reasons == ["second_copy"]


def test_places_that_a_test_set_uses_can_be_left_out(corpus: Any) -> None:
    rows = corpus.read("demand", "noise", leave_out=["TBUS"])
    assert [(row.speaker, isinstance(row, Unfit)) for row in rows] == [("DKITCHEN", False), ("TBUS", True)]


def test_places_can_be_chosen_and_the_others_are_rejected(corpus: Any) -> None:
    rows = corpus.read("demand", "noise", places=["TBUS"])
    assert [(row.speaker, isinstance(row, Unfit)) for row in rows] == [("DKITCHEN", True), ("TBUS", False)]


def test_the_digest_sees_files(corpus: Any) -> None:
    assert corpus.changes("demand", lambda: corpus.audio("SCAFE/ch01.wav"))


def test_mistakes_are_named(bench: Any) -> None:
    with pytest.raises(UserError, match=r"has no recording <PLACE>/ch01\.wav"):
        bench.read("demand", "noise")
    with pytest.raises(UserError, match="leave_out: DLIVNG; allowed: DKITCHEN, DLIVING"):
        bench.read("demand", "noise", leave_out=["DLIVNG"])
    with pytest.raises(UserError, match="numbers from 1 to 16"):
        bench.read("demand", "noise", channels=[0])
