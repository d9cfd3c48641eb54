"""Laws of content-decided boundaries: nothing is lost, an item decides for itself, and a change moves at most two."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.corpora.boundaries import LONGEST, content_batches

EXPECTED = 5
names = st.sets(st.text("abcdefgh", min_size=1, max_size=6), max_size=80).map(sorted)


def cut(items: list[str], expected: int = EXPECTED) -> list[tuple[str, ...]]:
    return [tuple(batch) for batch in content_batches(items, lambda name: name, expected)]


def ends_a_batch(name: str) -> bool:
    """Whether an item is the last of its batch, whatever follows."""
    return len(cut([name, f"{name}!"])) == 2


def longest_stretch(items: list[str]) -> int:
    """The most items between two boundaries."""
    places = [-1, *(place for place, name in enumerate(items) if ends_a_batch(name)), len(items) - 1]
    return max(after - before for before, after in itertools.pairwise(places))


@given(names, st.integers(1, 9))
def test_the_batches_hold_every_item_in_order_and_none_is_too_long(items: list[str], expected: int) -> None:
    batches = cut(items, expected)
    assert list(itertools.chain(*batches)) == items
    assert all(0 < len(batch) <= LONGEST * expected for batch in batches)


@given(names)
def test_an_item_ends_its_batch_whatever_else_is_in_the_list(items: list[str]) -> None:
    last = {batch[-1] for batch in cut(items)}
    assert {name for name in items if ends_a_batch(name)} <= last


@settings(max_examples=400)
@given(names, st.text("abcdefgh", min_size=1, max_size=6))
def test_adding_or_removing_an_item_changes_at_most_two_batches(items: list[str], name: str) -> None:
    without, holding = sorted({*items} - {name}), sorted({*items, name})
    before, after = set(cut(without)), set(cut(holding))
    if longest_stretch(holding) <= LONGEST * EXPECTED and longest_stretch(without or ["a"]) <= LONGEST * EXPECTED:
        assert len(after - before) <= 2
        assert len(before - after) <= 2
    # However long the stretches are: what stands before the boundary before the item and after that behind it stays.
    place = holding.index(name)
    begin = max((at + 1 for at in range(place) if ends_a_batch(holding[at])), default=0)
    end = next((at + 1 for at in range(place + 1, len(holding)) if ends_a_batch(holding[at])), len(holding))
    touched = set(holding[begin:end])
    assert all(touched.issuperset(batch) for batch in after ^ before)


@given(st.lists(st.integers(1, 4 * EXPECTED), min_size=1, max_size=30))
def test_items_of_one_key_stay_together(sizes: list[int]) -> None:
    """Recordings with their segments: each goes to one batch, as it fits into the longest."""
    items = [f"recording {number:02d}" for number, size in enumerate(sizes) for _ in range(size)]
    batches = cut(items)
    assert list(itertools.chain(*batches)) == items
    for name in set(items):
        assert sum(name in batch for batch in batches) == 1


def test_a_recording_with_more_segments_than_the_longest_batch_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.corpora.boundaries._HELD", 8)  # a stretch that is longer is not held as a whole
    items = ["before", *["long"] * 1000, "then"]
    batches = cut(items)
    assert list(itertools.chain(*batches)) == items
    assert max(map(len, batches)) <= LONGEST * EXPECTED
    assert len(batches) <= 1000 / EXPECTED


def test_the_mean_size_is_the_expected_one_for_recordings_and_for_segments() -> None:
    for segments in (1, 7):
        items = [f"{number:05d}.wav" for number in range(20_000 // segments) for _ in range(segments)]
        sizes = list(map(len, cut(items, 100)))
        assert 85 <= sum(sizes) / len(sizes) <= 115


def test_a_size_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        cut(["a"], 0)


def test_no_items_make_no_batch() -> None:
    assert cut([]) == []
