"""OpenSLR 26: rooms of three sizes have the same names, and splits must not share a room."""

from __future__ import annotations

from typing import Any

import pytest

from flowse.errors import UserError


@pytest.fixture
def corpus(bench: Any) -> Any:
    for size in ("smallroom", "mediumroom", "largeroom"):
        for room in ("Room001", "Room002"):
            bench.audio(*(f"simulated_rirs/{size}/{room}/{room}-{n:05d}.wav" for n in (1, 2, 3)), seconds=0.2)
        bench.text(f"simulated_rirs/{size}/rir_list", "--rir-id x --room-id y z\n")
    return bench


def test_rooms_of_one_name_and_several_sizes_stay_apart(corpus: Any) -> None:
    found = corpus.measure("openslr26", "rir")
    assert len(found.kept) == 18
    assert {row.speaker for row in found.kept} == {
        f"{size}/{room}" for size in ("smallroom", "mediumroom", "largeroom") for room in ("Room001", "Room002")
    }
    assert len({(row.speaker, row.split) for row in found.kept}) == 6
    assert {row.licence for row in found.kept} == {"Apache-2.0"}


def test_sizes_and_a_number_a_room_can_be_chosen(corpus: Any) -> None:
    rows = corpus.read("openslr26", "rir", sizes=["smallroom"], per_room=2)
    assert [row.path.rpartition("/")[2] for row in rows] == [
        "Room001-00001.wav",
        "Room001-00002.wav",
        "Room002-00001.wav",
        "Room002-00002.wav",
    ]


def test_the_digest_sees_files(corpus: Any) -> None:
    assert corpus.changes("openslr26", lambda: corpus.audio("simulated_rirs/smallroom/Room003/Room003-00001.wav"))


def test_mistakes_are_named(bench: Any) -> None:
    with pytest.raises(UserError, match="has no folder smallroom"):
        bench.read("openslr26", "rir")
    with pytest.raises(UserError, match=r"name it in ingest\.rirs"):
        bench.read("openslr26", "noise")
    with pytest.raises(UserError, match="sizes: hall; allowed: smallroom, mediumroom, largeroom"):
        bench.read("openslr26", "rir", sizes=["hall"])
