"""Batches hold everything once and in order."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pipelines.engine.stage import batched


@given(st.lists(st.integers(), max_size=30), st.integers(1, 7))
def test_batches_hold_everything_once_in_order(items: list[int], size: int) -> None:
    parts = list(batched(items, size))
    assert [item for part in parts for item in part] == items
    assert all(len(part) == size for part in parts[:-1])
