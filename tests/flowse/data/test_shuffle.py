"""Laws of the shard plans: every mixture is in one shard, and a recording more or less moves only its neighbours."""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import flowse.data.shuffle
from flowse.data.manifest import Split, Utterance
from flowse.data.parquet import write_rows
from flowse.data.shuffle import ShardPlan, leaves, plan_shards, read_shard_plan

COPIES: dict[Split, int] = {"train": 2, "dev": 1, "test": 1}


def _row(number: int, corpus: str = "a") -> Utterance:
    split: Split = "train" if number % 5 else "dev"
    return Utterance(
        utt_id=f"{corpus}/{number}", corpus=corpus, kind="speech", path=f"{number}.wav",
        duration_s=1.0 + number % 30, split=split, text="你好",
    )  # fmt: skip


def _plan(folder: Path, parts: Sequence[Sequence[Utterance]], per_shard: int = 8) -> list[ShardPlan]:
    folder.mkdir(exist_ok=True)
    paths = []
    for number, rows in enumerate(parts):
        paths.append(folder / f"part-{number}.parquet")
        write_rows(paths[-1], Utterance, rows)
    return plan_shards(paths, folder / "plans", copies=COPIES, per_shard=per_shard, max_s=20.0)


def _contents(plans: Sequence[ShardPlan]) -> Counter[str]:
    return Counter(plan.sha256 for plan in plans)


def test_every_copy_is_assigned_once_to_a_shard_of_its_corpus_and_split_with_its_row_unchanged(tmp_path: Path) -> None:
    rows = [_row(number, corpus) for corpus in ("b", "a") for number in range(100)]
    noise = dataclasses.replace(_row(1000), kind="noise")
    plans = _plan(tmp_path, [rows[:30], [], [noise], rows[30:]])
    assigned = Counter((row.utt_id, copy) for plan in plans for row, copy in read_shard_plan(plan.path))
    wanted = Counter((row.utt_id, copy) for row in rows for copy in range(COPIES[row.split or "train"]))
    assert assigned == wanted
    by_id = {row.utt_id: row for row in rows}
    for plan in plans:
        held = list(read_shard_plan(plan.path))
        assert [row for row, _ in held] == [by_id[row.utt_id] for row, _ in held]
        assert {(row.split, row.corpus) for row, _ in held} == {(plan.split, plan.corpus)}
        assert plan.label == f"{plan.split}-{plan.corpus}"
        assert plan.mixtures == len(held) <= 8
        assert plan.seconds == pytest.approx(sum(min(row.duration_s, 20.0) for row, _ in held))
    assert list(dict.fromkeys(plan.label for plan in plans)) == ["train-a", "train-b", "dev-a", "dev-b"]


def test_the_plans_do_not_depend_on_parts_and_buckets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [_row(number, corpus) for number in range(100) for corpus in ("a", "b")]
    whole = _plan(tmp_path / "whole", [rows])
    monkeypatch.setattr(flowse.data.shuffle, "_BUCKET_ROWS", 10)
    parts = _plan(tmp_path / "parts", [rows[130:][::-1], rows[:20], rows[20:130]])
    assert [dataclasses.replace(plan, path=tmp_path) for plan in whole] == [
        dataclasses.replace(plan, path=tmp_path) for plan in parts
    ]
    assert not list((tmp_path / "parts" / "plans").glob(".*"))


def test_equal_hashes_stand_in_the_order_of_their_ids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flowse.data.shuffle, "hash64", lambda name: 7)
    rows = [_row(number) for number in range(50)]
    assert _contents(_plan(tmp_path / "a", [rows])) == _contents(_plan(tmp_path / "b", [rows[:9], rows[9:][::-1]]))


def test_another_corpus_changes_no_shard(tmp_path: Path) -> None:
    rows = [_row(number) for number in range(200)]
    before = _contents(_plan(tmp_path / "before", [rows]))
    after = _contents(_plan(tmp_path / "after", [[_row(number, "b") for number in range(300)], rows]))
    assert before <= after


@pytest.mark.parametrize("gone", range(0, 200, 7))
def test_one_recording_less_changes_at_most_two_shards(tmp_path: Path, gone: int) -> None:
    """The shard that held it, which may have joined its neighbour; whatever the number of copies."""
    rows = [_row(number) for number in range(200)]
    before = _contents(_plan(tmp_path / "before", [rows]))
    after = _contents(_plan(tmp_path / "after", [[row for row in rows if row != _row(gone)]]))
    assert (before - after).total() <= 2
    assert (after - before).total() <= 1


def test_the_utterances_of_a_recording_are_neighbours(tmp_path: Path) -> None:
    rows = [
        dataclasses.replace(_row(1), utt_id=f"a/{path}-{number}", path=f"{path}.wav", offset_s=float(number))
        for number in range(3)
        for path in range(40)
    ]
    plans = _plan(tmp_path, [rows], per_shard=60)
    held = [[row.path for row, _ in read_shard_plan(plan.path)] for plan in plans]
    assert sum(len(set(paths)) for paths in held) == 40
    for paths in held:
        changes = sum(first != second for first, second in itertools.pairwise(paths))
        assert changes == len(set(paths)) - 1


def test_the_utterances_of_a_speaker_are_neighbours_and_stand_in_one_shard_if_they_fit(tmp_path: Path) -> None:
    rows = [
        dataclasses.replace(_row(speaker * 5 + 1), utt_id=f"a/{speaker}-{number}", path=f"{number}/{speaker}.wav",
                            speaker=f"s{speaker}")
        for number in range(6)
        for speaker in range(40)
    ]  # fmt: skip
    before = _plan(tmp_path / "before", [rows], per_shard=24)
    for speaker in range(40):
        assert sum(any(row.speaker == f"s{speaker}" for row, _ in read_shard_plan(plan.path)) for plan in before) == 1
    for forgotten in range(0, 40, 9):
        after = _plan(tmp_path / f"after-{forgotten}", [[row for row in rows if row.speaker != f"s{forgotten}"]], 24)
        assert (_contents(after) - _contents(before)).total() <= 1


def test_a_new_folder_of_recordings_without_speakers_touches_few_shards(tmp_path: Path) -> None:
    rows = [
        dataclasses.replace(_row(1), utt_id=f"a/{number}", path=f"{number % 50}/{number}.wav") for number in range(500)
    ]
    new = [
        dataclasses.replace(row, utt_id=f"a/new/{row.utt_id}", path=f"new/{Path(row.path).name}") for row in rows[:10]
    ]
    before = _contents(_plan(tmp_path / "before", [rows], per_shard=40))
    after = _contents(_plan(tmp_path / "after", [[*rows, *new]], per_shard=40))
    assert (after - before).total() <= 2


def test_what_nobody_hears_makes_no_shard_again(tmp_path: Path) -> None:
    rows = [_row(number) for number in range(30)]
    judged = [dataclasses.replace(row, language_prob=0.9, text_logprob=-0.1) for row in rows]
    assert _contents(_plan(tmp_path / "a", [rows])) == _contents(_plan(tmp_path / "b", [judged]))


def test_without_rows_there_are_no_plans_and_a_row_without_split_is_refused(tmp_path: Path) -> None:
    assert _plan(tmp_path, []) == []
    assert _plan(tmp_path, [[]]) == []
    with pytest.raises(ValueError, match="no split"):
        _plan(tmp_path, [[dataclasses.replace(_row(1), split=None)]])


_HASHES = st.lists(st.integers(0, 2**64 - 1) | st.integers(0, 20) | st.integers(2**63, 2**63 + 9), max_size=60)


@given(_HASHES, st.integers(1, 9))
@settings(max_examples=200, deadline=None)
def test_leaves_are_small_whole_and_one_hash_more_changes_one_of_them(hashes: list[int], most: int) -> None:
    def cut(values: Sequence[int]) -> Counter[tuple[int, ...]]:
        ordered = sorted(values)
        ends = leaves(np.array(ordered, np.uint64), most).tolist()
        assert ends == sorted(set(ends))
        assert ends[-1:] == ([len(ordered)] if ordered else [])
        return Counter(tuple(ordered[begin:end]) for begin, end in zip([0, *ends], ends, strict=False))

    whole = cut(hashes)
    for leaf in whole:
        assert len(leaf) <= most or len(set(leaf)) == 1
    for index in range(min(len(hashes), 8)):
        fewer = cut(hashes[:index] + hashes[index + 1 :])
        assert (whole - fewer).total() <= 2
        assert (fewer - whole).total() <= 1


def test_leaves_of_evenly_spread_hashes_are_about_equally_large() -> None:
    hashes = np.sort(np.random.default_rng(0).integers(0, 2**64, 100_000, np.uint64))
    sizes = np.diff(leaves(hashes, 500), prepend=0)
    assert sizes.sum() == 100_000
    assert 250 < sizes.mean() <= 500
    assert sizes.min() > 150
