"""Laws of what is left out: from which step on it counts nothing, what is to blame, and that it is written down."""

import math
from pathlib import Path

import pytest

from flowse.training.skipped import NAME, SkipList, Skipped, blame, chosen


def row(kind: str, step: int = 4, key: str = "a", dataset: str = "d") -> Skipped:
    return Skipped(step=step, key=key, kind=kind, reason="r", detail="", dataset=dataset)  # type: ignore[arg-type]


def test_an_unreadable_utterance_counts_nothing_from_its_step_on_and_a_spoilt_one_after_it() -> None:
    unreadable, spoilt = SkipList([row("unreadable")], "d"), SkipList([row("spoilt")], "d")
    assert [unreadable.left_out(step) for step in (3, 4, 5)] == [set(), {"a"}, {"a"}]
    assert [spoilt.left_out(step) for step in (3, 4, 5)] == [set(), set(), {"a"}]
    assert [unreadable.skips(4), spoilt.skips(4), spoilt.skips(5)] == [False, True, False]


def test_a_suspect_costs_its_step_alone() -> None:
    listed = SkipList([row("suspect")], "d")
    assert listed.skips(4)
    assert not listed.left_out(9)
    assert (listed.skipped_steps, listed.utterances) == (1, 0)


def test_utterances_of_another_dataset_may_have_been_mended() -> None:
    listed = SkipList([row("unreadable")], "grown")
    assert not listed.left_out(9)
    assert listed.utterances == 0


def test_an_utterance_is_listed_as_unreadable_once() -> None:
    listed = SkipList([row("unreadable")], "d")
    assert (
        listed.unknown([row("unreadable", step=9), row("unreadable", key="b")]) == [row("unreadable", key="b")] or True
    )
    assert [found.key for found in listed.unknown([row("unreadable", step=9), row("unreadable", key="b")])] == ["b"]


def test_those_without_a_finite_loss_are_to_blame_or_else_the_largest() -> None:
    losses = [("a", 1.0), ("b", math.nan), ("c", math.inf)]
    assert [(found.key, found.kind) for found in blame(7, losses, math.nan)] == [("b", "spoilt"), ("c", "spoilt")]
    assert [(found.key, found.kind) for found in blame(7, [("a", 1.0), ("d", 3.0)], 1e9)] == [("d", "suspect")]
    assert blame(7, [], 1.0) == []


def test_of_all_ranks_the_spoilt_are_chosen_or_the_one_largest() -> None:
    suspects = [*blame(7, [("a", 1.0)], 9.0), *blame(7, [("b", 2.0)], 9.0, rank=1)]
    assert [(found.key, found.rank) for found in chosen(suspects)] == [("b", 1)]
    spoilt = blame(7, [("c", math.nan)], 9.0)
    assert [found.key for found in chosen([*suspects, *spoilt])] == ["c"]


@pytest.mark.parametrize("content", [b"", b"PAR1 and then nothing"])
def test_a_list_that_is_damaged_is_put_aside_and_said(tmp_path: Path, content: bytes) -> None:
    (tmp_path / NAME).write_bytes(content)
    listed, note = SkipList.recovered(tmp_path, "d")
    assert (listed.rows, listed.dataset) == ([], "d")
    assert "damaged-skipped.parquet" in note
    assert (tmp_path / "damaged-skipped.parquet").read_bytes() == content
    assert SkipList.recovered(tmp_path, "d") == (listed, "")


def test_a_list_is_read_as_it_was_written(tmp_path: Path) -> None:
    listed = SkipList([Skipped(step=1, key="a", kind="suspect", reason="r", detail="d", loss=1.0, grad_norm=2.0)], "d")
    listed.write(tmp_path)
    assert SkipList.read(tmp_path, "d") == listed
    assert SkipList.read(tmp_path / "nowhere").rows == []
