"""Laws of what the contract brings along: resources that cannot work are refused, batches hold everything once."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.engine.stage import Resources, batched


@pytest.mark.parametrize(
    ("values", "complaint"),
    [({"num_cpus": -1}, "num_cpus"), ({"num_cpus": 0}, "number of workers"), ({"workers": 0}, "workers is 0")],
)
def test_resources_that_cannot_work_are_refused(values: dict[str, int], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        Resources(**values)  # type: ignore[arg-type]


@given(st.lists(st.integers(), max_size=30), st.integers(1, 7))
def test_batches_hold_everything_once_in_order(items: list[int], size: int) -> None:
    parts = list(batched(items, size))
    assert [item for part in parts for item in part] == items
    assert all(len(part) == size for part in parts[:-1])
