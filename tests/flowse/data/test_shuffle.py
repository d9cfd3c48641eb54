"""Laws of the shard plans: every mixture is in one shard, shards are even, and only the hash decides the order."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path

import pytest

import flowse.data.shuffle
from flowse.data.manifest import Split, Utterance
from flowse.data.parquet import write_rows
from flowse.data.shuffle import ShardPlan, plan_shards, read_shard_plan

COPIES: dict[Split, int] = {"train": 2, "dev": 1, "test": 1}


def _row(number: int, corpus: str = "a") -> Utterance:
    split: Split = "train" if number % 5 else "dev"
    return Utterance(
        utt_id=f"{corpus}/{number}", corpus=corpus, kind="speech", path=f"{number}.wav",
        duration_s=1.0 + number % 30, split=split, text="你好",
    )  # fmt: skip


def _plan(folder: Path, parts: list[list[Utterance]], per_shard: int = 7) -> list[ShardPlan]:
    folder.mkdir(exist_ok=True)
    paths = []
    for number, rows in enumerate(parts):
        paths.append(folder / f"part-{number}.parquet")
        write_rows(paths[-1], Utterance, rows)
    return plan_shards(paths, folder / "plans", seed=1, copies=COPIES, per_shard=per_shard, max_s=20.0)


def test_every_copy_is_assigned_once_to_shards_of_even_size_with_its_row_unchanged(tmp_path: Path) -> None:
    rows = [_row(number) for number in range(100)]
    noise = dataclasses.replace(_row(1000), kind="noise")
    plans = _plan(tmp_path, [rows[:30], [], [noise], rows[30:]])
    assigned = Counter((row.utt_id, copy) for plan in plans for row, copy in read_shard_plan(plan.path))
    wanted = Counter((row.utt_id, copy) for row in rows for copy in range(COPIES[row.split or "train"]))
    assert assigned == wanted
    by_id = {row.utt_id: row for row in rows}
    for plan in plans:
        held = list(read_shard_plan(plan.path))
        assert [row for row, _ in held] == [by_id[row.utt_id] for row, _ in held]
        assert {row.split for row, _ in held} == {plan.split}
        assert plan.mixtures == len(held)
        assert plan.seconds == pytest.approx(sum(min(row.duration_s, 20.0) for row, _ in held))
    for split in ("train", "dev"):
        sizes = [plan.mixtures for plan in plans if plan.split == split]
        assert max(sizes) - min(sizes) <= 1
        assert max(sizes) <= 7
    assert [plan.name for plan in plans][:2] == ["train-00000", "train-00001"]


def test_the_order_does_not_depend_on_parts_and_buckets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [_row(number) for number in range(100)]
    whole = _plan(tmp_path / "whole", [rows])
    monkeypatch.setattr(flowse.data.shuffle, "_BUCKET_ROWS", 10)
    parts = _plan(tmp_path / "parts", [rows[50:], rows[:20], rows[20:50]])
    assert [dataclasses.replace(plan, path=tmp_path) for plan in whole] == [
        dataclasses.replace(plan, path=tmp_path) for plan in parts
    ]
    for first, second in zip(whole, parts, strict=True):
        assert first.path.read_bytes() == second.path.read_bytes()
    assert not list((tmp_path / "parts" / "plans").glob(".*"))


def test_corpora_mix_in_every_shard(tmp_path: Path) -> None:
    parts = [[_row(number, corpus) for number in range(200)] for corpus in ("a", "b")]
    for plan in _plan(tmp_path, parts, per_shard=50):
        assert {row.corpus for row, _ in read_shard_plan(plan.path)} == {"a", "b"}


def test_without_rows_there_are_no_plans_and_a_row_without_split_is_refused(tmp_path: Path) -> None:
    assert _plan(tmp_path, []) == []
    assert _plan(tmp_path, [[]]) == []
    with pytest.raises(ValueError, match="no split"):
        _plan(tmp_path, [[dataclasses.replace(_row(1), split=None)]])
