"""The plan of training steps: the utterances of each, the length that they are padded to, and how a run resumes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from flowse.seeding import derive_seed, generator

_POOL_STEPS = 64
"""Utterances are sorted by length within pools of about this many steps: padding falls, and the order stays random."""
_FEWEST_LENGTHS, _MOST_LENGTHS = 12, 36
_GRID_PADDING = 0.03
"""Share of padding that the grid of lengths may cost before it gets more than `_FEWEST_LENGTHS`."""
_CANDIDATES = 256
"""Lengths that the grid is chosen from at most: the choice takes their number squared."""


@dataclass(frozen=True)
class Position:
    """How far a run got in its data, independent of the number of ranks: `samples` utterances of `epoch` are done."""

    epoch: int = 0
    samples: int = 0


@dataclass(frozen=True)
class PlannedStep:
    """The utterances of an optimiser step over all ranks.

    Attributes:
        utterances: Indices of the utterances, the longest first.
        length: Frames that each of them is padded to: a length of the plan's grid.
        rows: Utterances of a full step of this length; a pool's or epoch's last step may have fewer.
        before: Position before the step.
        after: Position after the step.
    """

    utterances: tuple[int, ...]
    length: int
    rows: int
    before: Position
    after: Position

    def batches(
        self, rank: int, world_size: int, micro_frames: int = 0, *, full: bool = False
    ) -> list[list[int | None]]:
        """Return a rank's micro-batches: on every rank as many, and all with as many rows.

        Ranks that differ in the number of their forward passes wait for each other for ever where weights are sharded,
        and those that differ in padded frames wait for the slowest. A rank that has fewer utterances than another
        therefore has rows without one (None); they are computed and count nothing.

        Args:
            rank: Rank of the process.
            world_size: Number of processes.
            micro_frames: Padded frames of a micro-batch at most, but at least one row; 0: no limit.
            full: Fill a step that has fewer utterances than others of its length, so that no batch has a shape of its
                own.
        """
        rows = -(-max(len(self.utterances), self.rows if full else 0) // world_size)
        mine: list[int | None] = list(self.utterances[rank::world_size])
        mine += [None] * (rows - len(mine))
        most = max(1, micro_frames // self.length) if micro_frames else rows
        count = -(-rows // most)
        size = -(-rows // count)
        mine += [None] * (count * size - rows)
        return [mine[index * size : (index + 1) * size] for index in range(count)]


def length_grid(frames: Int[np.ndarray, " N"], most: int = _MOST_LENGTHS) -> Int[np.ndarray, " K"]:
    """Choose the lengths that utterances are padded to, so that padding is least; the longest utterance's is the last.

    Few lengths are few shapes of batches: each one costs a compilation, and a CUDA graph. Twelve are chosen, or as many
    more, up to `most`, as it takes to keep the padding to the next length at 3 %.

    Args:
        frames: Length of every utterance, in mel frames.
        most: Number of lengths at most.

    Returns:
        Lengths in rising order.
    """
    longest = int(frames.max())
    step = max(1, -(-longest // _CANDIDATES))
    # A candidate stands for the lengths up to it; the longest utterance is one itself.
    up_to = np.minimum(-(-frames.astype(np.int64) // step) * step, longest)
    lengths, counts = np.unique(up_to, return_counts=True)
    sums = np.concatenate(([0.0], np.cumsum(np.bincount(np.searchsorted(lengths, up_to), weights=frames))))
    number = np.concatenate(([0], np.cumsum(counts)))
    # cost[i, j]: padding of the utterances of the candidates i to j if all are padded to candidate j.
    cost = lengths[None, :] * (number[None, 1:] - number[:-1, None]) - (sums[None, 1:] - sums[:-1, None])
    cost = np.where(np.arange(len(lengths))[:, None] <= np.arange(len(lengths))[None, :], cost, np.inf)
    least, cut = cost[0], []
    for size in range(1, min(most, len(lengths)) + 1):
        if size > 1:
            # The last of `size` lengths covers the candidates i to j, the others cover those before i.
            totals = np.concatenate(([np.inf], least[:-1]))[:, None] + cost
            cut.append(totals.argmin(axis=0))
            least = totals.min(axis=0)
        if size >= _FEWEST_LENGTHS and least[-1] <= _GRID_PADDING * sums[-1]:
            break
    chosen, last = [], len(lengths) - 1
    for begins in reversed(cut):
        chosen.append(lengths[last])
        last = int(begins[last]) - 1
    grid: Int[np.ndarray, " K"] = np.array([lengths[last], *reversed(chosen)])
    return grid


class StepPlan:
    """Assigns utterances to steps: a function of lengths, budget and seed, independent of the number of ranks.

    An epoch is a permutation drawn from (seed, epoch) and split into pools. A pool is sorted by length and cut into
    steps from its longest utterance on; a step's utterances are padded to the same length of a grid, and their number
    follows from that length. What is left of a pool, less than a step, goes to the next pool, and the steps of a pool
    are shuffled. So each utterance comes once in an epoch, padding is small, batches have few shapes, and a position
    (epoch, utterances done) is enough to resume with any number of ranks.

    Example:
        >>> plan = StepPlan(frames=[200, 300, 250], frames_per_step=600, seed=0)
        >>> for step in plan.steps(Position()): ...
    """

    def __init__(
        self, frames: Sequence[int] | np.ndarray, frames_per_step: int, seed: int, divisible_by: int = 1
    ) -> None:
        """Choose the grid of lengths and the number of utterances of a step of each.

        Args:
            frames: Length of every utterance after cropping, in mel frames.
            frames_per_step: Padded frames of a step at most, over all ranks; more only where `divisible_by` utterances
                are more.
            seed: Seed of the order.
            divisible_by: The number of utterances of a full step is a multiple of this: of the number of ranks, if none
                shall wait for another.

        Raises:
            ValueError: There is no utterance, or one does not fit into a step.
        """
        self._frames = np.asarray(frames, np.int32)
        if not len(self._frames):
            raise ValueError("there is no utterance to train on")
        if self._frames.max() > frames_per_step:
            raise ValueError(
                f"frames_per_step={frames_per_step} is less than the longest utterance, "
                f"{self._frames.max()} frames; raise it, or lower max_frames"
            )
        self._seed = seed
        self.lengths = length_grid(self._frames)
        """The lengths that utterances are padded to, rising."""
        fit = frames_per_step // self.lengths
        self._rows = np.maximum(fit // divisible_by, 1) * divisible_by
        self._pool = max(1, round(_POOL_STEPS * frames_per_step / float(self._frames.mean())))

    def epoch(self, epoch: int) -> Iterator[PlannedStep]:
        """Yield the steps of one epoch."""
        total, done = len(self._frames), 0
        order = generator(derive_seed(self._seed, "epoch", epoch)).permutation(total)
        left = order[:0]
        for start in range(0, total, self._pool):
            pool = np.concatenate((left, order[start : start + self._pool]))
            rng = generator(derive_seed(self._seed, "pool", epoch, start))
            steps, left = self._cut(pool, last=start + self._pool >= total)
            for index in rng.permutation(len(steps)):
                utterances, length, rows = steps[index]
                before, done = Position(epoch, done), done + len(utterances)
                after = Position(epoch, done) if done < total else Position(epoch + 1)
                yield PlannedStep(tuple(utterances.tolist()), length, rows, before, after)

    def _cut(self, pool: np.ndarray, last: bool) -> tuple[list[tuple[np.ndarray, int, int]], np.ndarray]:
        """Cut a pool into steps (utterances, length, rows of a full one); also return the utterances that are left."""
        # The sort is stable: utterances of equal length stay in the order of the permutation.
        by_length = pool[np.argsort(-self._frames[pool], kind="stable")]
        steps, at = [], 0
        while at < len(by_length):
            place = int(np.searchsorted(self.lengths, self._frames[by_length[at]]))
            rows = int(self._rows[place])
            if at + rows > len(by_length) and not last:
                break
            steps.append((by_length[at : at + rows], int(self.lengths[place]), rows))
            at += rows
        return steps, by_length[at:]

    def steps(self, position: Position) -> Iterator[PlannedStep]:
        """Yield every step from `position` on, without end.

        Raises:
            ValueError: No step begins at `position`: it belongs to other data, another budget or another seed.
        """
        epoch, skip = position.epoch, position.samples
        while True:
            if skip >= len(self._frames):
                raise ValueError(f"epoch {epoch} has {len(self._frames)} utterances, the position says {skip}")
            for step in self.epoch(epoch):
                if step.before.samples >= skip:
                    yield step
                elif step.before.samples + len(step.utterances) > skip:
                    raise ValueError(f"no step begins after {skip} utterances of epoch {epoch}")
            epoch, skip = epoch + 1, 0
