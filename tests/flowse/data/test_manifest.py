"""Laws of the manifest: ids are safe as WebDataset keys, and different paths have different ids."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowse.data.manifest import distinct_id, make_utt_id


@given(st.text(st.characters(codec="utf-8"), min_size=1, max_size=40))
def test_an_id_is_a_safe_webdataset_key(path: str) -> None:
    utt_id = make_utt_id("corpus", path)
    assert "." not in utt_id
    assert " " not in utt_id
    assert utt_id.isascii()
    assert utt_id == utt_id.lower()


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=3000))
def test_a_tar_with_any_id_can_be_unpacked(path: str) -> None:
    name = make_utt_id("corpus", path, 1.5) + "-00.clean.flac"
    assert len(name) < 3600
    assert all(len(part) <= 255 for part in name.split("/"))
    other = distinct_id(make_utt_id("corpus", path), path)
    assert all(len(part) <= 255 - len("-00.clean.flac") for part in other.split("/"))


def test_only_ids_that_no_tar_could_hold_are_cut() -> None:
    assert make_utt_id("c", "你" * 47 + ".wav") == "c/" + "=4f60" * 47 + "-wav"
    paths = ["你" * 83 + f"{number}.wav" for number in range(10)]
    assert len({make_utt_id("c", path) for path in paths}) == len(paths)
    assert make_utt_id("c", "x.wav", 2.5) == "c/x-wav-000002500"


@pytest.mark.parametrize("offset_s", [math.nan, math.inf, -math.inf, -0.5, 1e308, 1e300])
def test_a_row_with_an_impossible_time_has_an_id_still(offset_s: float) -> None:
    utt_id = make_utt_id("c", "x.wav", offset_s)
    assert utt_id.startswith("c/x-wav-")
    assert "." not in utt_id
    assert len(utt_id) < 255


def test_paths_of_one_id_are_told_apart_by_the_path_alone() -> None:
    dotted, plain = "session.1/x.wav", "session-1/x.wav"
    assert make_utt_id("c", dotted) == make_utt_id("c", plain)
    assert distinct_id(make_utt_id("c", dotted), dotted) not in (
        make_utt_id("c", plain),
        distinct_id(make_utt_id("c", plain), plain),
    )


def test_paths_that_dots_would_merge_have_different_ids() -> None:
    paths = ["book.00.wav", "book.01.wav", "book/00.wav", "书.wav", "本.wav", "a b.wav", "a_b.flac"]
    assert len({make_utt_id("c", path) for path in paths}) == len(paths)
    assert make_utt_id("c", "x.wav", 1.5) != make_utt_id("c", "x.wav", 1.501)
