"""Laws of the sort: the order is a function of the rows alone, whether they fit into memory or not."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from flowse.data.manifest import Utterance
from pipelines.corpora import Unfit, unfit
from pipelines.corpora.sorting import sorted_rows


def rows() -> list[Utterance]:
    """Segments, repeated rows and unfit ones, in order of path and start."""
    found = [
        Utterance(utt_id=f"c/{path}-{start}", corpus="c", kind="speech", path=path, offset_s=start, text=text)
        for path in ("a b.wav", "a.wav", "a/é.wav", "b.wav")
        for start in (0.0, 0.5, 10.0)
        for text in ("one", "two")
    ]
    return [*found, unfit(found[-1], "music", "a song")]


@pytest.mark.parametrize("held", [1, 4, 25, 1000])
@pytest.mark.parametrize("seed", range(3))
def test_any_order_of_the_rows_gives_the_same_order(tmp_path: Path, held: int, seed: int) -> None:
    mixed = rows()
    random.Random(seed).shuffle(mixed)
    found = list(sorted_rows(mixed, tmp_path, held))
    assert found == list(sorted_rows(rows(), tmp_path))
    assert [(row.path, row.offset_s) for row in found] == sorted((row.path, row.offset_s) for row in mixed)
    assert sum(isinstance(row, Unfit) for row in found) == 1
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_left_behind_when_the_reader_stops(tmp_path: Path) -> None:
    coming = sorted_rows(rows(), tmp_path, 2)
    next(coming)
    coming.close()  # type: ignore[attr-defined]
    assert list(tmp_path.iterdir()) == []
