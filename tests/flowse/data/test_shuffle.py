"""Laws of the deal: every mixture to one shard, even shards, an order that only the hash decides."""

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


def _deal(folder: Path, parts: list[list[Utterance]], per_shard: int = 7) -> list[ShardPlan]:
    folder.mkdir(exist_ok=True)
    paths = []
    for number, rows in enumerate(parts):
        paths.append(folder / f"part-{number}.parquet")
        write_rows(paths[-1], Utterance, rows)
    return plan_shards(paths, folder / "plans", seed=1, copies=COPIES, per_shard=per_shard, max_s=20.0)


def test_every_copy_is_dealt_once_evenly_with_its_row_untouched(tmp_path: Path) -> None:
    rows = [_row(number) for number in range(100)]
    noise = dataclasses.replace(_row(1000), kind="noise")
    plans = _deal(tmp_path, [rows[:30], [], [noise], rows[30:]])
    dealt = Counter((row.utt_id, copy) for plan in plans for row, copy in read_shard_plan(plan.path))
    wanted = Counter((row.utt_id, copy) for row in rows for copy in range(COPIES[row.split or "train"]))
    assert dealt == wanted
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


def test_the_order_depends_on_no_parts_and_no_buckets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [_row(number) for number in range(100)]
    one = _deal(tmp_path / "one", [rows])
    monkeypatch.setattr(flowse.data.shuffle, "_BUCKET_ROWS", 10)
    many = _deal(tmp_path / "many", [rows[50:], rows[:20], rows[20:50]])
    assert [dataclasses.replace(plan, path=tmp_path) for plan in one] == [
        dataclasses.replace(plan, path=tmp_path) for plan in many
    ]
    for first, second in zip(one, many, strict=True):
        assert first.path.read_bytes() == second.path.read_bytes()
    assert not list((tmp_path / "many" / "plans").glob(".*"))


def test_corpora_mix_in_every_shard(tmp_path: Path) -> None:
    parts = [[_row(number, corpus) for number in range(200)] for corpus in ("a", "b")]
    for plan in _deal(tmp_path, parts, per_shard=50):
        assert {row.corpus for row, _ in read_shard_plan(plan.path)} == {"a", "b"}


def test_nothing_is_dealt_from_nothing_and_a_row_without_split_is_refused(tmp_path: Path) -> None:
    assert _deal(tmp_path, []) == []
    assert _deal(tmp_path, [[]]) == []
    with pytest.raises(ValueError, match="no split"):
        _deal(tmp_path, [[dataclasses.replace(_row(1), split=None)]])
