"""Batches with a budget of mel frames: which utterances each training step takes, and how a run resumes."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Generic, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from flowse.audio.mel import LogMel
from flowse.data.augment import Augmentation, draw_augmentation
from flowse.data.augment_config import AugmentConfig
from flowse.seeding import derive_seed, generator

_POOL_STEPS = 64
"""Utterances are sorted by length within pools of about this many steps: padding falls, and the order stays random."""


Item = TypeVar("Item")


@runtime_checkable
class Row(Protocol):
    """The interface that batching needs of an utterance before reading it; `IndexRow` has it."""

    @property
    def key(self) -> str:
        """Key of the utterance, unique in the dataset."""

    @property
    def samples(self) -> int:
        """Length in samples."""


@dataclass(frozen=True)
class Example:
    """The waveforms of an utterance.

    Attributes:
        noisy: Noisy waveform, full scale ±1.
        clean: Target waveform, sample-aligned with `noisy` and equally long.
        text_ids: Token ids of the transcript; empty if there is no text.
    """

    noisy: np.ndarray
    clean: np.ndarray
    text_ids: Sequence[int] = ()


@dataclass(frozen=True)
class CachedMels:
    """The log-mels of an utterance, computed earlier; see `flowse.data.mel_cache`.

    Attributes:
        stored: Noisy and clean log-mel ``[frames, 2, bins]`` in the encoding that `decode` reads.
        decode: Turns `stored`, or a stretch of it, into log-mels in float32.
        text_ids: Token ids of the transcript; empty if there is no text.
    """

    stored: np.ndarray
    decode: Callable[[np.ndarray], np.ndarray]
    text_ids: Sequence[int] = ()

    def stretch(self, start: int, frames: int) -> CachedMels:
        """Return `frames` frames from `start` on, without the text, which belongs to the whole utterance."""
        return CachedMels(self.stored[start : start + frames], self.decode)


@dataclass(frozen=True)
class Position:
    """How far a run got in its data, independent of the number of ranks: `samples` utterances of `epoch` are done."""

    epoch: int = 0
    samples: int = 0


@dataclass(frozen=True)
class Batch:
    """Utterances padded to one length with the log floor.

    Attributes:
        keys: Key of each utterance.
        seeds: Seed of each utterance for all its random draws in this step.
        noisy: Log-mel of the input.
        clean: Log-mel of the target.
        lengths: Number of real frames of each utterance.
        text_ids: Token ids, padded with 0; None if no utterance has text.
        weight: 1; or 0 for a batch that only keeps a rank without utterances in step with the other ranks.
    """

    keys: tuple[str, ...]
    seeds: tuple[int, ...]
    noisy: Float[Tensor, "B T F"]
    clean: Float[Tensor, "B T F"]
    lengths: Int[Tensor, " B"]
    text_ids: Int[Tensor, "B L"] | None
    weight: float = 1.0

    @property
    def frames(self) -> int:
        """Number of real frames."""
        return int(self.lengths.sum())

    @property
    def padded_frames(self) -> int:
        """Number of frames including padding."""
        return self.noisy.shape[0] * self.noisy.shape[1]

    def to(self, device: torch.device) -> Batch:
        """Return a copy on a device."""
        return replace(
            self,
            noisy=self.noisy.to(device, non_blocking=True),
            clean=self.clean.to(device, non_blocking=True),
            lengths=self.lengths.to(device, non_blocking=True),
            text_ids=None if self.text_ids is None else self.text_ids.to(device, non_blocking=True),
        )


@dataclass(frozen=True)
class Step(Generic[Item]):
    """A rank's share of an optimiser step.

    Attributes:
        number: Number of the step, from 0.
        after: Position after the step.
        batches: Micro-batches of this rank as the loader's `prepare` returned them, at least one; their gradients add
            up.
        frames: Number of real frames in the step, over all ranks; the step's loss is divided by it.
        utterances: Number of utterances in the step, over all ranks.
    """

    number: int
    after: Position
    batches: tuple[Item, ...]
    frames: int
    utterances: int


def frames_of(samples: int, hop_length: int, max_frames: int) -> int:
    """Return the number of mel frames of an utterance after cropping to `max_frames` (0: no limit)."""
    frames = samples // hop_length + 1
    return min(frames, max_frames) if max_frames else frames


def pack(frames: Sequence[int], order: Sequence[int], budget: int) -> list[list[int]]:
    """Split `order` into groups whose padded size, longest times count, is at most `budget` frames.

    An utterance longer than the budget becomes a group of its own.

    Args:
        frames: Length of every utterance, in frames.
        order: Indices into `frames`; padding is small if they are sorted by length, in either direction.
        budget: Padded size of a group at most, in frames.
    """
    groups: list[list[int]] = []
    longest = 0
    for index in order:
        longest = max(longest, frames[index])
        if not groups or longest * (len(groups[-1]) + 1) > budget:
            groups.append([])
            longest = frames[index]
        groups[-1].append(index)
    return groups


class StepPlan:
    """Assigns utterances to steps: a function of lengths, budget and seed, independent of the number of ranks.

    An epoch is a permutation drawn from (seed, epoch) and split into pools. A pool is sorted by length and packed into
    steps, and the steps of a pool are shuffled. So each utterance comes once in an epoch, padding is small, and a
    position (epoch, utterances done) is enough to resume with any number of ranks.

    Example:
        >>> plan = StepPlan(frames=[200, 300, 250], frames_per_step=600, seed=0)
        >>> for utterances, before, after in plan.steps(Position()): ...
    """

    def __init__(self, frames: Sequence[int], frames_per_step: int, seed: int) -> None:
        """Check that every utterance fits into a step.

        Args:
            frames: Length of every utterance after cropping, in mel frames.
            frames_per_step: Padded frames of a step at most, over all ranks.
            seed: Seed of the order.

        Raises:
            ValueError: There is no utterance, or one does not fit into a step.
        """
        if not frames:
            raise ValueError("there is no utterance to train on")
        if max(frames) > frames_per_step:
            raise ValueError(
                f"frames_per_step={frames_per_step} is less than the longest utterance, "
                f"{max(frames)} frames; raise it, or lower max_frames"
            )
        self._frames = frames
        self._budget = frames_per_step
        self._seed = seed
        mean = sum(frames) / len(frames)
        self._pool = max(1, round(_POOL_STEPS * frames_per_step / mean))

    def epoch(self, epoch: int) -> Iterator[list[int]]:
        """Yield the utterances of each step of one epoch."""
        order = generator(derive_seed(self._seed, "epoch", epoch)).permutation(len(self._frames))
        for start in range(0, len(order), self._pool):
            pool = order[start : start + self._pool]
            rng = generator(derive_seed(self._seed, "pool", epoch, start))
            # The sort is stable: utterances of equal length stay in the order of the permutation.
            by_length = sorted(pool.tolist(), key=self._frames.__getitem__)
            steps = pack(self._frames, by_length, self._budget)
            for index in rng.permutation(len(steps)):
                yield steps[index]

    def steps(self, position: Position) -> Iterator[tuple[list[int], Position, Position]]:
        """Yield (utterances, position before, position after) of every step from `position` on, without end.

        Raises:
            ValueError: No step begins at `position`: it belongs to other data, another budget or another seed.
        """
        epoch, skip = position.epoch, position.samples
        while True:
            done = 0
            for utterances in self.epoch(epoch):
                before, done = done, done + len(utterances)
                if before >= skip:
                    after = Position(epoch, done) if done < len(self._frames) else Position(epoch + 1)
                    yield utterances, Position(epoch, before), after
                elif done > skip:
                    raise ValueError(f"no step begins after {skip} utterances of epoch {epoch}")
            if skip and done <= skip:
                raise ValueError(f"epoch {epoch} has {done} utterances, the position says {skip}")
            epoch, skip = epoch + 1, 0


def share(frames: Sequence[int], utterances: Sequence[int], rank: int, world_size: int) -> list[int]:
    """Return a rank's utterances of a step: every `world_size`-th by length, so that all ranks have equal work."""
    return sorted(utterances, key=frames.__getitem__)[rank::world_size]


class Loader(Generic[Item]):
    """Reads the steps of a `StepPlan` for one rank, in threads, ahead of the training.

    Example:
        >>> settings = {"frames_per_step": 20_000, "max_frames": 1_200, "seed": 0}
        >>> loader = Loader(rows, read, LogMel(), prepare=lambda batch: batch, **settings)
        >>> for step in loader.steps():
        ...     for batch in step.batches: ...
    """

    def __init__(
        self,
        rows: Sequence[Row],
        read: Callable[[Row], Example | CachedMels],
        log_mel: LogMel,
        prepare: Callable[[Batch], Item],
        *,
        frames_per_step: int,
        max_frames: int,
        seed: int,
        micro_frames: int = 0,
        augment: AugmentConfig | None = None,
        rank: int = 0,
        world_size: int = 1,
        threads: int = 1,
        prefetch: int = 3,
    ) -> None:
        """Plan the steps; nothing is read yet.

        Args:
            rows: The dataset's utterances, in the same order on every rank.
            read: Reads one utterance; several threads call it at once.
            log_mel: The mel transform.
            prepare: Turns a batch into what a step needs (adds its random draws, say); called in the reading thread.
            frames_per_step: Padded frames of a step at most, over all ranks.
            max_frames: Longer utterances are cropped to a stretch that epoch and seed choose, without their text.
            seed: Seed of the order, the crops and every utterance's draws.
            micro_frames: Padded frames of a forward pass at most; a larger step accumulates gradients. 0: no limit.
            augment: Settings of the augmentation; None or probability 0: no augmentation.
            rank: Rank of this process.
            world_size: Number of processes.
            threads: Number of steps that are read at the same time.
            prefetch: Number of steps that are read ahead.

        Raises:
            ValueError: There is no utterance, or one does not fit into a step.
        """
        config = log_mel.config
        self._rows, self._read, self._mel, self._prepare = rows, read, log_mel, prepare
        self._max_frames = max_frames
        self.frames = [frames_of(row.samples, config.hop_length, max_frames) for row in rows]
        """Length of every utterance after cropping, in mel frames."""
        self._plan = StepPlan(self.frames, frames_per_step, seed)
        self._seed, self._micro = seed, micro_frames
        self._augment = augment if augment and augment.probability else None
        self._rank, self._world_size = rank, world_size
        self._threads, self._prefetch = threads, max(1, prefetch)

    @property
    def utterances(self) -> int:
        """Number of utterances in an epoch."""
        return len(self._rows)

    @property
    def frame_s(self) -> float:
        """Seconds from one mel frame to the next."""
        return self._mel.config.hop_length / self._mel.config.sample_rate

    def steps(self, number: int = 0, position: Position | None = None) -> Iterator[Step[Item]]:
        """Yield this rank's share of every step from step `number` at `position` on, without end.

        An error while reading is raised here, when the step that it belongs to is due.
        """
        planned = enumerate(self._plan.steps(position or Position()), start=number)
        with ThreadPoolExecutor(self._threads, thread_name_prefix="loader") as pool:
            waiting: deque[Future[Step[Item]]] = deque()
            try:
                for index, (utterances, before, after) in planned:
                    waiting.append(pool.submit(self._step, index, utterances, before, after))
                    if len(waiting) > self._prefetch:
                        yield waiting.popleft().result()
            finally:
                for future in waiting:
                    future.cancel()

    def _step(self, number: int, utterances: list[int], before: Position, after: Position) -> Step[Item]:
        mine = share(self.frames, utterances, self._rank, self._world_size)
        groups = pack(self.frames, mine, self._micro) if self._micro else [mine]
        batches = [self._batch(group, number, before.epoch) for group in groups if group]
        if not batches:
            # There are fewer utterances than ranks: this rank still has to take part in the exchange of gradients.
            shortest = min(utterances, key=self.frames.__getitem__)
            batches = [replace(self._batch([shortest], number, before.epoch), weight=0.0)]
        frames = sum(self.frames[index] for index in utterances)
        return Step(number, after, tuple(map(self._prepare, batches)), frames, len(utterances))

    def _batch(self, utterances: list[int], number: int, epoch: int) -> Batch:
        rows = [self._rows[index] for index in utterances]
        frames = [self.frames[index] for index in utterances]
        seeds = tuple(derive_seed(self._seed, "step", number, row.key) for row in rows)
        source_frames, augmentations = frames, list[Augmentation]()
        if self._augment:
            mel = self._mel.config
            augmentations = [draw_augmentation(seed, mel.n_mels, self._augment) for seed in seeds]
            source_frames = [
                augmentation.source_frames(length, frames_of(row.samples, mel.hop_length, 0))
                for augmentation, length, row in zip(augmentations, frames, rows, strict=True)
            ]
        examples = [self._crop(row, epoch, length) for row, length in zip(rows, source_frames, strict=True)]

        def augment(index: int, pair: Tensor) -> Tensor:
            return augmentations[index](pair, frames[index], self._mel.config) if augmentations else pair

        return collate(tuple(row.key for row in rows), seeds, examples, self._mel, augment)

    def _crop(self, row: Row, epoch: int, frames: int) -> Example | CachedMels:
        """Read an utterance, or a stretch of it that epoch and seed choose."""
        example = self._read(row)
        hop = self._mel.config.hop_length
        samples = row.samples if isinstance(example, CachedMels) else len(example.clean)
        whole = frames_of(samples, hop, 0)
        if whole <= frames:
            return example
        first = int(generator(derive_seed(self._seed, "crop", epoch, row.key)).integers(whole - frames + 1))
        if isinstance(example, CachedMels):
            return example.stretch(first, frames)
        start, length = hop * first, hop * (frames - 1)
        # The transcript belongs to the whole utterance: it would name words that the stretch does not contain.
        return Example(example.noisy[start : start + length], example.clean[start : start + length])


def collate(
    keys: Sequence[str],
    seeds: Sequence[int],
    examples: Sequence[Example | CachedMels],
    log_mel: LogMel,
    augment: Callable[[int, Tensor], Tensor] = lambda _, pair: pair,
) -> Batch:
    """Compute the log-mels of waveforms, or decode cached ones, augment them, and pad them with the log floor.

    Args:
        keys: Keys of the utterances.
        seeds: Seeds of the utterances.
        examples: Waveforms or cached log-mels of the utterances.
        log_mel: The mel transform.
        augment: Takes the index of an utterance and its log-mels ``[2, T, F]``; returns those to train on.

    Raises:
        ValueError: Noisy and clean waveform differ in length; the message names the utterance.
    """
    config = log_mel.config
    mels = []
    for index, (key, example) in enumerate(zip(keys, examples, strict=True)):
        if isinstance(example, CachedMels):
            mels.append(augment(index, torch.from_numpy(example.decode(example.stored)).transpose(0, 1)))
            continue
        if len(example.noisy) != len(example.clean):
            raise ValueError(f"{key}: noisy has {len(example.noisy)} samples, clean {len(example.clean)}")
        pair = torch.from_numpy(np.stack((example.noisy, example.clean)))
        # Silence extends a waveform that is too short for the STFT's reflection at the edges.
        short = config.n_fft // 2 + 1 - pair.shape[1]
        padded = torch.nn.functional.pad(pair, (0, max(0, short)))
        mels.append(augment(index, log_mel(padded)[:, : config.frames(pair.shape[1])]))
    lengths = [mel.shape[1] for mel in mels]
    both = torch.full((2, len(mels), max(lengths), config.n_mels), config.log_floor)
    for index, mel in enumerate(mels):
        both[:, index, : lengths[index]] = mel
    ids = _pad_ids([example.text_ids for example in examples])
    return Batch(tuple(keys), tuple(seeds), both[0], both[1], torch.tensor(lengths), ids)


def _pad_ids(texts: Sequence[Sequence[int]]) -> Tensor | None:
    longest = max(len(ids) for ids in texts)
    if not longest:
        return None
    return torch.tensor([[*ids, *([0] * (longest - len(ids)))] for ids in texts])


def fixed_batches(
    rows: Sequence[Row],
    read: Callable[[Row], Example],
    log_mel: LogMel,
    *,
    frames_per_batch: int,
    max_frames: int,
    seed: int,
    rank: int = 0,
    world_size: int = 1,
) -> list[Batch]:
    """Read a rank's share of a validation set, with seeds that are the same in every validation.

    Args:
        rows: Utterances of the validation set, in the same order on every rank.
        read: Reads one utterance.
        log_mel: The mel transform.
        frames_per_batch: Padded frames of a batch at most.
        max_frames: Longer utterances are cropped to their beginning, without their text. 0: no limit.
        seed: Seed of the draws.
        rank: Rank of this process.
        world_size: Number of processes.
    """
    hop = log_mel.config.hop_length
    frames = [frames_of(row.samples, hop, max_frames) for row in rows]
    batches = []
    for group in pack(frames, share(frames, range(len(rows)), rank, world_size), frames_per_batch):
        keys = [rows[index].key for index in group]
        seeds = [derive_seed(seed, "validation", key) for key in keys]
        examples = [read(rows[index]) for index in group]
        if max_frames:
            samples = (max_frames - 1) * hop
            examples = [
                Example(example.noisy[:samples], example.clean[:samples])
                if len(example.clean) // hop + 1 > max_frames
                else example
                for example in examples
            ]
        batches.append(collate(keys, seeds, examples, log_mel))
    return batches


def mel_statistics(
    rows: Sequence[Row], read: Callable[[Row], Example], log_mel: LogMel, *, limit: int, seed: int
) -> tuple[float, float]:
    """Measure mean and standard deviation of the clean log-mel over at most `limit` utterances that the seed chooses.

    Returns:
        Mean and standard deviation over all frames and bins, rounded to 4 decimal places.
    """
    by_key = sorted(rows, key=lambda row: row.key)
    chosen = generator(derive_seed(seed, "mel statistics")).permutation(len(by_key))[:limit]
    count, total, squares = 0, 0.0, 0.0
    for index in sorted(chosen.tolist()):
        row = by_key[index]
        mel = collate([row.key], [0], [read(row)], log_mel).clean.double()
        count += mel.numel()
        total += float(mel.sum())
        squares += float(mel.square().sum())
    mean = total / count
    return round(mean, 4), round(math.sqrt(max(squares / count - mean**2, 1e-8)), 4)
