"""Laws of the plan of steps: each utterance once in an epoch, few shapes, no rank waits, and any step can resume."""

import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowse.data.step_plan import PlannedStep, Position, StepPlan, length_grid

lengths = st.lists(st.integers(1, 90), min_size=1, max_size=200)


@given(lengths, st.integers(90, 500), st.integers(0, 3), st.integers(0, 9), st.integers(1, 5))
@settings(max_examples=60, deadline=None)
def test_a_plan_takes_each_utterance_once_in_an_epoch(
    frames: list[int], budget: int, epoch: int, seed: int, divisible_by: int
) -> None:
    steps = list(StepPlan(frames, budget, seed, divisible_by).epoch(epoch))
    assert Counter(itertools.chain.from_iterable(step.utterances for step in steps)) == Counter(range(len(frames)))
    for step in steps:
        assert max(frames[index] for index in step.utterances) <= step.length
        assert step.length * len(step.utterances) <= max(budget, divisible_by * step.length)
        assert step.rows % divisible_by == 0
    assert [step.before for step in steps[1:]] == [step.after for step in steps[:-1]]
    assert steps[-1].after == Position(epoch + 1)


@given(lengths, st.integers(1, 9), st.integers(0, 200), st.booleans())
def test_ranks_share_a_step_without_gap_or_overlap_and_in_equal_shapes(
    frames: list[int], world_size: int, micro_frames: int, full: bool
) -> None:
    step = PlannedStep(tuple(range(len(frames))), max(frames), len(frames) + 3, Position(), Position(1))
    ranks = [step.batches(rank, world_size, micro_frames, full=full) for rank in range(world_size)]
    shared = [index for batches in ranks for batch in batches for index in batch if index is not None]
    assert Counter(shared) == Counter(step.utterances)
    assert len({tuple(len(batch) for batch in batches) for batches in ranks}) == 1
    assert len({len(batch) for batch in ranks[0]}) == 1
    if micro_frames:
        assert all(len(batch) * step.length <= micro_frames or len(batch) == 1 for batch in ranks[0])


@given(lengths, st.integers(90, 400), st.integers(0, 40), st.integers(1, 3))
@settings(max_examples=60, deadline=None)
def test_a_plan_resumes_at_any_step_as_if_it_had_not_stopped(
    frames: list[int], budget: int, done: int, divisible_by: int
) -> None:
    plan = StepPlan(frames, budget, 3, divisible_by)
    undisturbed = list(itertools.islice(plan.steps(Position()), done + 20))
    assert list(itertools.islice(plan.steps(undisturbed[done].before), 20)) == undisturbed[done:]


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


def _seconds(kind: str, rng: np.random.Generator, count: int) -> np.ndarray:
    if kind == "gigaspeech":
        return np.clip(rng.lognormal(1.2, 0.6, count), 0.5, 20)
    if kind == "librispeech":
        return np.clip(rng.normal(12.5, 3.5, count), 1.5, 17)
    return np.clip(rng.lognormal(2.2, 0.8, count), 1, 32)


@pytest.mark.parametrize("kind", ["gigaspeech", "librispeech", "mixed"])
@pytest.mark.parametrize("world_size", [8, 16])
def test_at_the_papers_size_no_rank_waits_and_padding_and_shapes_are_few(kind: str, world_size: int) -> None:
    frames = (_seconds(kind, np.random.default_rng(0), 40_000) * 93.75).astype(int) + 1
    real = padded = 0
    shapes = set()
    for step in itertools.islice(StepPlan(frames, 38_400, 1, world_size).epoch(0), 200):
        (batch,) = step.batches(0, world_size)
        assert all(step.batches(rank, world_size)[0].count(None) == batch.count(None) for rank in range(world_size))
        real += int(frames[list(step.utterances)].sum())
        padded += world_size * len(batch) * step.length
        shapes.add((len(batch), step.length))
    assert 1 - real / padded <= 0.06
    assert len(shapes) <= 40


def test_the_last_step_of_an_epoch_can_have_the_shape_of_a_full_one() -> None:
    last = min(StepPlan([50] * 7, 200, 0).epoch(0), key=lambda step: len(step.utterances))
    assert (len(last.utterances), last.rows) == (3, 4)
    assert [len(batch) for batch in last.batches(0, 1)] == [3]
    assert [len(batch) for batch in last.batches(0, 1, full=True)] == [4]


@given(lengths, st.integers(1, 40))
def test_a_grid_covers_all_lengths_with_as_few_as_asked_for(frames: list[int], most: int) -> None:
    grid = length_grid(np.array(frames), most)
    assert len(grid) <= most
    assert grid[-1] == max(frames)
    assert (np.diff(grid) > 0).all()


def test_a_grid_is_the_best_of_all() -> None:
    frames = np.array([1, 2, 2, 3, 7, 8, 8, 15, 16])

    def padding(grid: tuple[int, ...]) -> int:
        return int(sum(min(length for length in grid if length >= frame) - frame for frame in frames))

    candidates = [grid for grid in itertools.combinations(np.unique(frames).tolist(), 3) if grid[-1] == 16]
    assert padding(tuple(length_grid(frames, 3).tolist())) == min(map(padding, candidates))


def test_a_step_too_small_for_an_utterance_is_refused_with_both_numbers() -> None:
    with pytest.raises(ValueError, match=r"frames_per_step=30 .* 41 frames"):
        StepPlan([41], 30, 0)
