"""Laws of the manifest: ids are safe as WebDataset keys, and different paths have different ids."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from flowse.data.manifest import make_utt_id


@given(st.text(st.characters(codec="utf-8"), min_size=1, max_size=40))
def test_an_id_is_a_safe_webdataset_key(path: str) -> None:
    utt_id = make_utt_id("corpus", path)
    assert "." not in utt_id
    assert " " not in utt_id
    assert utt_id.isascii()
    assert utt_id == utt_id.lower()


def test_paths_that_dots_would_merge_have_different_ids() -> None:
    paths = ["book.00.wav", "book.01.wav", "book/00.wav", "书.wav", "本.wav", "a b.wav", "a_b.flac"]
    assert len({make_utt_id("c", path) for path in paths}) == len(paths)
    assert make_utt_id("c", "x.wav", 1.5) != make_utt_id("c", "x.wav", 1.501)
