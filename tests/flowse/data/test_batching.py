"""Laws of batching: each utterance comes once in an epoch at any world size, any step can resume, padding is small."""

import itertools
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flowse.audio.mel import LogMel
from flowse.data.augment import draw_augmentation
from flowse.data.augment_config import AugmentConfig
from flowse.data.batching import (
    Batch,
    Example,
    Loader,
    Position,
    Row,
    Step,
    StepPlan,
    collate,
    fixed_batches,
    mel_statistics,
    pack,
    share,
)

HOP = 256


@dataclass(frozen=True)
class FakeRow:
    key: str
    samples: int


def rows(count: int, seed: int = 0, longest: int = 40) -> list[FakeRow]:
    lengths = np.random.default_rng(seed).integers(8, longest, count)
    return [FakeRow(f"utt-{index}", int(length) * HOP) for index, length in enumerate(lengths)]


def read(row: Row) -> Example:
    rng = np.random.default_rng(sum(map(ord, row.key)))
    clean = rng.normal(0, 0.1, row.samples).astype(np.float32)
    return Example(clean + np.float32(0.01), clean, text_ids=[1, 2, 3])


def loader(data: list[FakeRow], **options: object) -> Loader[Batch]:
    settings = {"frames_per_step": 160, "max_frames": 0, "seed": 1, **options}
    return Loader(data, read, LogMel(), lambda batch: batch, **settings)


def keys_of(steps: list[Step[Batch]]) -> list[str]:
    return [key for step in steps for batch in step.batches if batch.weight for key in batch.keys]


def one_epoch(steps: Iterator[Step[Batch]]) -> list[Step[Batch]]:
    taken = []
    for step in steps:
        taken.append(step)
        if step.after.epoch == 1:
            return taken
    raise AssertionError


lengths = st.lists(st.integers(1, 90), min_size=1, max_size=200)


@given(lengths, st.integers(90, 500), st.integers(0, 3), st.integers(0, 9))
@settings(max_examples=60, deadline=None)
def test_a_plan_takes_each_utterance_once_in_an_epoch(frames: list[int], budget: int, epoch: int, seed: int) -> None:
    steps = list(StepPlan(frames, budget, seed).epoch(epoch))
    assert Counter(itertools.chain.from_iterable(steps)) == Counter(range(len(frames)))
    assert all(max(frames[i] for i in step) * len(step) <= budget for step in steps)


@given(lengths, st.integers(1, 9))
def test_ranks_share_a_step_without_gap_or_overlap(frames: list[int], world_size: int) -> None:
    shares = [share(frames, range(len(frames)), rank, world_size) for rank in range(world_size)]
    assert Counter(itertools.chain.from_iterable(shares)) == Counter(range(len(frames)))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@given(lengths, st.integers(90, 400), st.integers(0, 40))
@settings(max_examples=60, deadline=None)
def test_a_plan_resumes_at_any_step_as_if_it_had_not_stopped(frames: list[int], budget: int, done: int) -> None:
    plan = StepPlan(frames, budget, 3)
    undisturbed = list(itertools.islice(plan.steps(Position()), done + 20))
    position = undisturbed[done][1]
    assert list(itertools.islice(plan.steps(position), 20)) == undisturbed[done:]


def test_a_position_of_another_plan_is_refused() -> None:
    plan = StepPlan([10] * 9, 20, 0)
    with pytest.raises(ValueError, match="no step begins"):
        list(itertools.islice(plan.steps(Position(0, 1)), 20))
    with pytest.raises(ValueError, match="epoch 0 has 9"):
        list(itertools.islice(plan.steps(Position(0, 12)), 20))


def test_epochs_and_seeds_differ_and_are_repeatable() -> None:
    frames = list(range(1, 60))
    orders = [list(StepPlan(frames, 100, seed).epoch(epoch)) for seed in (0, 1) for epoch in (0, 1)]
    assert all(a != b for a, b in itertools.combinations(orders, 2))
    assert list(StepPlan(frames, 100, 0).epoch(1)) == orders[1]


def test_at_least_nine_frames_of_ten_are_real_on_a_mixed_length_set() -> None:
    frames = np.random.default_rng(0).integers(94, 1875, 4000).tolist()  # 1 s to 20 s
    padded = sum(max(frames[i] for i in step) * len(step) for step in StepPlan(frames, 19_000, 0).epoch(0))
    assert sum(frames) / padded >= 0.9


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_an_epoch_has_every_utterance_once_at_any_world_size_with_the_same_draws(world_size: int) -> None:
    data = rows(50)
    ranks = [one_epoch(loader(data, rank=r, world_size=world_size).steps()) for r in range(world_size)]
    assert Counter(key for steps in ranks for key in keys_of(steps)) == Counter(row.key for row in data)
    seeds = {
        key: seed
        for steps in ranks
        for s in steps
        for b in s.batches
        for key, seed in zip(b.keys, b.seeds, strict=True)
    }
    alone = {
        key: seed
        for s in one_epoch(loader(data).steps())
        for b in s.batches
        for key, seed in zip(b.keys, b.seeds, strict=True)
    }
    assert seeds == alone
    for steps in zip(*ranks, strict=True):
        assert len({(step.frames, step.utterances, step.after) for step in steps}) == 1
        assert sum(b.frames for step in steps for b in step.batches if b.weight) == steps[0].frames


def test_a_run_resumes_in_mid_epoch_at_another_world_size() -> None:
    data = rows(50)
    undisturbed = one_epoch(loader(data).steps())
    first, stop = undisturbed[:4], undisturbed[3].after
    rest = [one_epoch(loader(data, rank=r, world_size=3).steps(4, stop)) for r in range(3)]
    assert rest[0][0].number == 4
    assert Counter(keys_of(first) + [key for steps in rest for key in keys_of(steps)]) == Counter(
        row.key for row in data
    )


def test_a_rank_without_utterances_takes_part_with_weight_zero() -> None:
    data = rows(3, longest=12)
    ranks = [next(iter(loader(data, rank=r, world_size=5, frames_per_step=60).steps())) for r in range(5)]
    assert sorted(key for step in ranks for key in keys_of([step])) == sorted(row.key for row in data)
    assert [step.batches[0].weight for step in ranks] == [1, 1, 1, 0, 0]


def test_micro_batches_keep_the_limit_and_lose_no_utterance() -> None:
    data = rows(50)
    whole = one_epoch(loader(data).steps())
    cut = one_epoch(loader(data, micro_frames=50).steps())
    assert sorted(keys_of(cut)) == sorted(keys_of(whole))
    assert all(batch.padded_frames <= 50 for step in cut for batch in step.batches)
    assert [step.frames for step in cut] == [step.frames for step in whole]


def test_threads_and_prefetch_change_nothing() -> None:
    data = rows(30)
    few = one_epoch(loader(data).steps())
    many = one_epoch(loader(data, threads=4, prefetch=9).steps())
    for step, same in zip(few, many, strict=True):
        assert step.number == same.number
        assert torch.equal(step.batches[0].clean, same.batches[0].clean)


def test_long_utterances_are_cropped_by_epoch_and_lose_their_text() -> None:
    data = [FakeRow("long", 100 * HOP), FakeRow("short", 20 * HOP)]
    steps = itertools.islice(loader(data, frames_per_step=64, max_frames=30).steps(), 12)
    crops = {}
    for step in steps:
        batch = step.batches[0]
        if "long" in batch.keys:
            index = batch.keys.index("long")
            assert batch.lengths[index] == 30
            if batch.text_ids is not None:
                assert batch.text_ids[index].sum() == 0
            crops[step.after.epoch] = batch.clean[index, :30]
    assert len(crops) > 1
    first, second = itertools.islice(crops.values(), 2)
    assert not torch.equal(first, second)
    whole = LogMel()(torch.from_numpy(read(data[0]).clean)[None])[0]
    inner = first[5:25]  # away from the edges, where the STFT reflects
    assert any(torch.allclose(whole[s : s + 20], inner, atol=1e-3) for s in range(80))


AUGMENT = AugmentConfig(probability=1.0)


def test_augmentation_keeps_plan_and_lengths_and_changes_the_mels() -> None:
    data = rows(40, longest=60)
    options = {"frames_per_step": 200, "max_frames": 40}
    plain = one_epoch(loader(data, **options).steps())
    changed = one_epoch(loader(data, **options, augment=AUGMENT).steps())
    again = one_epoch(loader(data, **options, augment=AUGMENT, threads=3).steps())
    for original, augmented, repeated in zip(plain, changed, again, strict=True):
        assert keys_of([original]) == keys_of([augmented])
        assert torch.equal(original.batches[0].lengths, augmented.batches[0].lengths)
        assert not torch.allclose(original.batches[0].clean, augmented.batches[0].clean, atol=0.1)
        assert torch.equal(augmented.batches[0].noisy, repeated.batches[0].noisy)
    off = loader(data, **options, augment=AugmentConfig()).steps()
    assert torch.equal(next(iter(off)).batches[0].noisy, plain[0].batches[0].noisy)


def test_an_augmented_utterance_that_is_cropped_loses_its_text() -> None:
    data = [FakeRow(f"utt-{index}", 20 * HOP) for index in range(40)]
    batches = [step.batches[0] for step in one_epoch(loader(data, augment=AUGMENT).steps())]
    seeds = {key: seed for batch in batches for key, seed in zip(batch.keys, batch.seeds, strict=True)}
    slower = {key for key, seed in seeds.items() if draw_augmentation(seed, 100, AUGMENT).source_frames(21, 21) < 21}
    assert 5 < len(slower) < 35
    for batch in batches:
        for index, key in enumerate(batch.keys):
            has_text = batch.text_ids is not None and bool(batch.text_ids[index].any())
            assert has_text == (key not in slower)


def test_padding_is_the_log_floor() -> None:
    examples = [read(FakeRow("a", 10 * HOP)), read(FakeRow("b", 30 * HOP))]
    batch = collate(["a", "b"], [0, 0], examples, LogMel())
    assert batch.lengths.tolist() == [11, 31]
    assert (batch.noisy[0, 11:] == LogMel().config.log_floor).all()
    assert torch.allclose(batch.clean[1], LogMel()(torch.from_numpy(examples[1].clean)[None])[0])
    assert batch.padded_frames == 62
    assert batch.frames == 42


def test_an_utterance_too_short_for_the_stft_still_has_its_frames() -> None:
    tiny = Example(np.zeros(100, np.float32), np.zeros(100, np.float32))
    assert collate(["a"], [0], [tiny], LogMel()).lengths.tolist() == [1]


def test_the_refusal_of_waveforms_of_different_length_names_the_key() -> None:
    broken = Example(np.zeros(600, np.float32), np.zeros(700, np.float32))
    with pytest.raises(ValueError, match="utt-7"):
        collate(["utt-7"], [0], [broken], LogMel())


def test_an_error_while_reading_is_raised_at_its_step() -> None:
    def fail(row: Row) -> Example:
        raise OSError(f"{row.key}: gone")

    steps = Loader(rows(5), fail, LogMel(), lambda b: b, frames_per_step=160, max_frames=0, seed=0).steps()
    with pytest.raises(OSError, match="gone"):
        next(steps)


def test_a_validation_set_is_the_same_at_any_world_size() -> None:
    data = rows(9)
    options = {"frames_per_batch": 100, "max_frames": 20, "seed": 4}
    alone = fixed_batches(data, read, LogMel(), **options)
    shared = [b for r in range(2) for b in fixed_batches(data, read, LogMel(), **options, rank=r, world_size=2)]

    def seeds(batches: list[Batch]) -> dict[str, int]:
        return {key: seed for b in batches for key, seed in zip(b.keys, b.seeds, strict=True)}

    assert seeds(alone) == seeds(shared)
    assert set(seeds(alone)) == {row.key for row in data}
    assert max(int(batch.lengths.max()) for batch in alone) <= 20


def test_pack_puts_an_oversized_utterance_into_a_group_of_its_own() -> None:
    assert pack([5, 50, 4], [0, 1, 2], 10) == [[0], [1], [2]]


def test_mel_statistics_cover_all_frames_and_do_not_depend_on_order() -> None:
    data = rows(6)
    mels = torch.cat([LogMel()(torch.from_numpy(read(row).clean)[None])[0] for row in data])
    mean, deviation = mel_statistics(data, read, LogMel(), limit=100, seed=0)
    assert mean == pytest.approx(float(mels.mean()), abs=1e-3)
    assert deviation == pytest.approx(float(mels.std()), abs=1e-3)
    assert mel_statistics(data[::-1], read, LogMel(), limit=4, seed=0) == mel_statistics(
        data, read, LogMel(), limit=4, seed=0
    )


def test_a_step_too_small_for_an_utterance_is_refused_with_both_numbers() -> None:
    with pytest.raises(ValueError, match=r"frames_per_step=30 .* 41 frames"):
        StepPlan([41], 30, 0)
