"""Laws of batches: the same utterances and draws at any world size, equal shapes on all ranks, faults named."""

import errno
import itertools
import multiprocessing
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import pytest
import torch

from flowse.audio.mel import LogMel
from flowse.data import batching
from flowse.data.augment import draw_augmentation
from flowse.data.augment_config import AugmentConfig
from flowse.data.batching import (
    Batch,
    Example,
    Loader,
    Row,
    Step,
    collate,
    fixed_batches,
    mel_statistics,
)
from flowse.errors import DamagedFile
from flowse.refusal import Refusal

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
    batches = [batch for step in steps for batch in step.batches]
    return [key for batch in batches for key, counts in zip(batch.keys, batch.counted, strict=True) if counts]


def one_epoch(steps: Iterator[Step[Batch]]) -> list[Step[Batch]]:
    taken = []
    for step in steps:
        taken.append(step)
        if step.after.epoch == 1:
            return taken
    raise AssertionError


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
        if key
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
        assert sum(b.frames for step in steps for b in step.batches) == steps[0].frames


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
    assert [step.batches[0].counted for step in ranks] == [(True,)] * 3 + [(False,)] * 2
    assert [step.batches[0].frames > 0 for step in ranks] == [True] * 3 + [False] * 2
    assert {step.frames for step in ranks} == {sum(row.samples // HOP + 1 for row in data)}


@pytest.mark.parametrize("world_size", [2, 4])
def test_all_ranks_have_as_many_batches_of_the_same_shapes(world_size: int) -> None:
    data = rows(50)
    ranks = [one_epoch(loader(data, rank=r, world_size=world_size, micro_frames=60).steps()) for r in range(world_size)]
    for steps in zip(*ranks, strict=True):
        assert len({tuple(batch.noisy.shape for batch in step.batches) for step in steps}) == 1
    settings = {"frames_per_batch": 100, "max_frames": 0, "seed": 0, "world_size": world_size}
    (first,), *others = [fixed_batches(data[:1], read, LogMel(), rank=r, **settings) for r in range(world_size)]
    assert [[batch.noisy.shape for batch in batches] for batches in others] == [[first.noisy.shape]] * len(others)
    assert [batch.frames for batches in others for batch in batches] == [0] * len(others)


@pytest.mark.parametrize("error", [DamagedFile("t.tar: cut off"), Refusal.failed("damaged", "t.tar: cut off")])
def test_an_utterance_that_cannot_be_read_is_a_fault_and_counts_nothing(error: Exception) -> None:
    data = rows(9)

    def fail(row: Row) -> Example:
        if row.key == "utt-3":
            raise error
        return read(row)

    whole = one_epoch(loader(data).steps())
    steps = one_epoch(Loader(data, fail, LogMel(), lambda b: b, frames_per_step=160, max_frames=0, seed=1).steps())
    faults = [fault for step in steps for fault in step.faults]
    assert [(fault.key, fault.reason, fault.detail) for fault in faults] == [("utt-3", "damaged", "t.tar: cut off")]
    assert sorted(keys_of(steps)) == sorted(row.key for row in data if row.key != "utt-3")
    assert [step.batches[0].noisy.shape for step in steps] == [step.batches[0].noisy.shape for step in whole]
    (batch,) = fixed_batches(data, fail, LogMel(), frames_per_batch=10**6, max_frames=0, seed=0)
    assert [fault.key for fault in batch.faults] == ["utt-3"]


def test_an_utterance_is_left_out_of_a_batch_without_a_trace_of_its_values() -> None:
    data = rows(3)
    batch = collate([row.key for row in data], [0, 1, 2], [read(row) for row in data], LogMel())
    batch.noisy[1] = float("nan")
    left = batch.without({"utt-1"})
    assert left.counted == (True, False, True)
    assert left.frames == batch.frames - int(batch.lengths[1])
    assert torch.isfinite(left.noisy).all()
    assert batch.without({"utt-9"}) is batch


def test_only_a_batch_without_padding_is_whole() -> None:
    data = [FakeRow("a", 20 * HOP), FakeRow("b", 20 * HOP)]
    assert collate(["a", "b"], [0, 0], [read(row) for row in data], LogMel()).whole
    assert collate(["a", ""], [0, 0], [read(data[0]), None], LogMel()).whole
    assert not collate(["a", "b"], [0, 0], [read(row) for row in data], LogMel(), length=30).whole


def test_micro_batches_keep_the_limit_and_lose_no_utterance() -> None:
    data = rows(50)
    whole = one_epoch(loader(data).steps())
    cut = one_epoch(loader(data, micro_frames=50).steps())
    assert sorted(keys_of(cut)) == sorted(keys_of(whole))
    assert all(batch.padded_frames <= 50 or len(batch.keys) == 1 for step in cut for batch in step.batches)
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


def test_storage_that_fails_for_good_is_raised_at_its_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batching, "_PAUSES_S", (0.0, 0.0))
    tries: Counter[str] = Counter()

    def fail(row: Row) -> Example:
        tries[row.key] += 1
        raise OSError(errno.EIO, f"{row.key}: no answer")

    steps = Loader(rows(5), fail, LogMel(), lambda b: b, frames_per_step=160, max_frames=0, seed=0).steps()
    with pytest.raises(OSError, match="no answer"):
        next(steps)
    assert max(tries.values()) == 3


def test_storage_that_fails_for_a_moment_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batching, "_PAUSES_S", (0.0, 0.0))
    tries: Counter[str] = Counter()

    def falter(row: Row) -> Example:
        tries[row.key] += 1
        if tries[row.key] < 3:
            raise OSError(errno.ESTALE, "stale file handle")
        return read(row)

    assert one_epoch_of(falter) == one_epoch_of(read)


def one_epoch_of(reader: Callable[[Row], Example]) -> list[tuple[object, ...]]:
    """What a reader gives in an epoch."""
    fed = Loader(rows(5), reader, LogMel(), lambda b: b, frames_per_step=160, max_frames=0, seed=0)
    return [
        (batch.keys, batch.faults, batch.noisy.sum().item())
        for step in one_epoch(fed.steps())
        for batch in step.batches
    ]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda e: Example(e.noisy[:0], e.clean[:0]), "empty_file"),
        (lambda e: Example(e.noisy[:-1], e.clean), "unequal_lengths"),
        (lambda e: Example(np.stack((e.noisy, e.noisy)), np.stack((e.clean, e.clean))), "several_channels"),
        (lambda e: [][0], "worker_error"),
        (lambda e: Example(e.noisy[:1], e.clean[:1]), ""),
        (lambda e: Example(np.tile(e.noisy, 3), np.tile(e.clean, 3)), ""),
        (lambda e: Example(0 * e.noisy, 0 * e.clean), ""),
    ],
)
def test_an_utterance_of_which_nothing_can_be_learned_is_a_fault_and_others_are_none(
    change: Callable[[Example], Example], reason: str
) -> None:
    def odd(row: Row) -> Example:
        return change(read(row)) if row.key == "utt-3" else read(row)

    fed = Loader(rows(5), odd, LogMel(), lambda b: b, frames_per_step=160, max_frames=0, seed=0)
    batches = [batch for step in one_epoch(fed.steps()) for batch in step.batches]
    faults = [(fault.key, fault.reason) for batch in batches for fault in batch.faults]
    assert faults == ([("utt-3", reason)] if reason else [])
    assert all(torch.isfinite(batch.noisy).all() for batch in batches)


def test_an_id_outside_of_the_vocabulary_is_named_once_and_has_no_trace() -> None:
    def odd(row: Row) -> Example:
        given = read(row)
        return Example(given.noisy, given.clean, [1, 99]) if row.key == "utt-3" else given

    fed = Loader(rows(5), odd, LogMel(), lambda b: b, frames_per_step=400, max_frames=0, seed=0)
    (batch,) = next(iter(fed.steps())).batches
    assert batch.beyond(99) == ()
    (fault,) = batch.beyond(98)
    assert (fault.key, fault.reason) == ("utt-3", "unknown_token")
    without = batch.without([fault.key])
    assert without.beyond(98) == ()
    assert without.text_ids is not None
    assert int(without.text_ids.max()) == 3


def test_a_validation_set_is_the_same_at_any_world_size() -> None:
    data = rows(9)
    options = {"frames_per_batch": 100, "max_frames": 20, "seed": 4}
    alone = fixed_batches(data, read, LogMel(), **options)
    shared = [b for r in range(2) for b in fixed_batches(data, read, LogMel(), **options, rank=r, world_size=2)]

    def seeds(batches: list[Batch]) -> dict[str, int]:
        return {key: seed for b in batches for key, seed in zip(b.keys, b.seeds, strict=True) if key}

    assert seeds(alone) == seeds(shared)
    assert set(seeds(alone)) == {row.key for row in data}
    assert max(int(batch.lengths.max()) for batch in alone) <= 20


def test_mel_statistics_cover_all_frames() -> None:
    data = rows(6)
    mels = torch.cat([LogMel()(torch.from_numpy(read(row).clean)[None])[0] for row in data])
    mean, deviation = mel_statistics(data, read, LogMel(), limit=100, seed=0)
    assert mean == pytest.approx(float(mels.mean()), abs=1e-3)
    assert deviation == pytest.approx(float(mels.std()), abs=1e-3)


def test_mel_statistics_leave_out_what_cannot_be_read() -> None:
    data = rows(6)

    def fail(row: Row) -> Example:
        if row.key != "utt-2":
            raise DamagedFile("t.tar: cut off")
        return read(row)

    alone = mel_statistics([data[2]], read, LogMel(), limit=9, seed=0)
    assert mel_statistics(data, fail, LogMel(), limit=9, seed=0) == alone
    with pytest.raises(DamagedFile, match=r"none of 2 mixtures .*cut off"):
        mel_statistics(data[:2], fail, LogMel(), limit=9, seed=0)


def read_but_one(row: Row) -> Example:
    if row.key == "utt-3":
        raise DamagedFile("t.tar: utt-3 is cut off")
    return read(row)


def loader_again(**options: object) -> Loader[int]:
    settings = {"frames_per_step": 160, "max_frames": 0, "seed": 1, **options}
    return Loader(rows(20), read_but_one, LogMel(), plain, again=partial(loader_again), **settings)


def plain(batch: Batch) -> Batch:
    return batch


@pytest.mark.timeout(120)
def test_processes_read_the_steps_that_threads_read() -> None:
    taken = {}
    for name, options in {"threads": {"threads": 3}, "processes": {"processes": 2}}.items():
        steps = loader_again(**options).steps(number=4)
        taken[name] = list(itertools.islice(steps, 9))
        steps.close()  # type: ignore[attr-defined]
    for threaded, processed in zip(taken["threads"], taken["processes"], strict=True):
        assert (threaded.number, threaded.after, threaded.faults) == (
            processed.number,
            processed.after,
            processed.faults,
        )
        for first, second in zip(threaded.batches, processed.batches, strict=True):
            assert (first.keys, first.seeds) == (second.keys, second.seeds)
            assert torch.equal(first.noisy, second.noisy)
            assert torch.equal(first.clean, second.clean)
    assert any(step.faults for step in taken["processes"])
    assert [child for child in multiprocessing.active_children() if "DataLoader" in child.name] == []


def test_processes_need_to_know_how_to_make_the_loader() -> None:
    with pytest.raises(ValueError, match="makes the loader again"):
        loader(rows(5), processes=2)
