"""Batches of log-mels: utterances are read ahead in threads, padded together, and shared out to the ranks."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from flowse.audio.mel import LogMel
from flowse.data.augment import Augmentation, draw_augmentation
from flowse.data.augment_config import AugmentConfig
from flowse.data.step_plan import PlannedStep, Position, StepPlan
from flowse.errors import DamagedFile
from flowse.fetching import Source, current_source, use_source
from flowse.refusal import Refusal, is_of_surroundings, refusing
from flowse.seeding import derive_seed, generator

Item = TypeVar("Item")
_PAUSES_S = (0.2, 2.0)  # before storage that fails is asked again


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
class Fault:
    """An utterance that cannot be read; the batch has a row that counts nothing in its place.

    Attributes:
        key: Key of the utterance.
        reason: Machine-readable reason, e.g. "damaged".
        detail: One line for people: what is wrong, and where.
    """

    key: str
    reason: str
    detail: str


@dataclass(frozen=True)
class Batch:
    """Utterances padded to one length with the log floor.

    Attributes:
        keys: Key of each utterance; empty for a row without one.
        seeds: Seed of each utterance for all its random draws in this step.
        noisy: Log-mel of the input.
        clean: Log-mel of the target.
        lengths: Number of real frames of each utterance.
        text_ids: Token ids, padded with 0; None if no utterance has text.
        weights: 1 for an utterance that counts; 0 for a row that only keeps the batch's shape, and so the rank in step
            with the others. None: all count.
        faults: Utterances that could not be read.
        whole: Whether no row has padding, so that attention needs no mask.
    """

    keys: tuple[str, ...]
    seeds: tuple[int, ...]
    noisy: Float[Tensor, "B T F"]
    clean: Float[Tensor, "B T F"]
    lengths: Int[Tensor, " B"]
    text_ids: Int[Tensor, "B L"] | None
    weights: Float[Tensor, " B"] | None = None
    faults: tuple[Fault, ...] = ()
    whole: bool = False

    @property
    def counted(self) -> tuple[bool, ...]:
        """Whether each row counts."""
        return (True,) * len(self.keys) if self.weights is None else tuple(self.weights.bool().tolist())

    @property
    def frames(self) -> int:
        """Number of real frames of the utterances that count."""
        lengths = self.lengths if self.weights is None else self.lengths[self.weights > 0]
        return int(lengths.sum())

    @property
    def padded_frames(self) -> int:
        """Number of frames including padding and rows that count nothing."""
        return self.noisy.shape[0] * self.noisy.shape[1]

    def without(self, keys: Collection[str]) -> Batch:
        """Return a copy in which the utterances of these keys count nothing, and zeros stand for their values.

        Their token ids are zeros, too: no network looks up what it may not know.
        """
        gone = [key in keys for key in self.keys]
        if not any(gone):
            return self
        rows = torch.tensor(gone)
        weights = torch.ones(len(gone)) if self.weights is None else self.weights
        return replace(
            self,
            noisy=self.noisy.masked_fill(rows[:, None, None], 0.0),
            clean=self.clean.masked_fill(rows[:, None, None], 0.0),
            text_ids=None if self.text_ids is None else self.text_ids.masked_fill(rows[:, None], 0),
            weights=weights.masked_fill(rows, 0.0),
        )

    def beyond(self, symbols: int) -> tuple[Fault, ...]:
        """Return the utterances that count and have a token id outside of a vocabulary of so many symbols."""
        if self.text_ids is None or not self.text_ids.numel():
            return ()
        wrong = ((self.text_ids < 0) | (self.text_ids > symbols)).any(dim=1).tolist()
        return tuple(
            Fault(key, "unknown_token", f"{key}: has a token id outside of the vocabulary; verify the dataset")
            for key, is_wrong, counts in zip(self.keys, wrong, self.counted, strict=True)
            if is_wrong and counts
        )

    def to(self, device: torch.device) -> Batch:
        """Return a copy on a device."""
        return replace(
            self,
            noisy=self.noisy.to(device, non_blocking=True),
            clean=self.clean.to(device, non_blocking=True),
            lengths=self.lengths.to(device, non_blocking=True),
            text_ids=None if self.text_ids is None else self.text_ids.to(device, non_blocking=True),
            weights=None if self.weights is None else self.weights.to(device, non_blocking=True),
        )

    def pin_memory(self) -> Batch:
        """Return a copy in page-locked memory, from which copies to a GPU do not wait."""
        return replace(
            self,
            noisy=self.noisy.pin_memory(),
            clean=self.clean.pin_memory(),
            lengths=self.lengths.pin_memory(),
            text_ids=None if self.text_ids is None else self.text_ids.pin_memory(),
            weights=None if self.weights is None else self.weights.pin_memory(),
        )


@dataclass(frozen=True)
class Step(Generic[Item]):
    """A rank's share of an optimiser step.

    Attributes:
        number: Number of the step, from 0.
        after: Position after the step.
        batches: Micro-batches of this rank as the loader's `prepare` returned them, as many on every rank; their
            gradients add up.
        frames: Number of real frames in the step, over all ranks, as planned.
        utterances: Number of utterances in the step, over all ranks, as planned.
        faults: Utterances of this rank that could not be read.
    """

    number: int
    after: Position
    batches: tuple[Item, ...]
    frames: int
    utterances: int
    faults: tuple[Fault, ...] = ()

    def pin_memory(self) -> Step[Item]:
        """Return a copy whose batches lie in page-locked memory, if they can."""
        return replace(self, batches=tuple(pin_memory(item) for item in self.batches))


def frames_of(samples: int, hop_length: int, max_frames: int) -> int:
    """Return the number of mel frames of an utterance after cropping to `max_frames` (0: no limit)."""
    frames = samples // hop_length + 1
    return min(frames, max_frames) if max_frames else frames


def frames_of_rows(rows: Sequence[Row], hop_length: int, max_frames: int) -> Int[np.ndarray, " N"]:
    """Return the number of mel frames of every utterance after cropping to `max_frames` (0: no limit)."""
    samples = getattr(rows, "samples", None)  # an index by column has them at hand
    if samples is None:
        samples = np.fromiter((row.samples for row in rows), np.int64, len(rows))
    frames: Int[np.ndarray, " N"] = (np.asarray(samples) // hop_length + 1).astype(np.int32)
    return np.minimum(frames, max_frames) if max_frames else frames


class Loader(Generic[Item]):
    """Reads the steps of a `StepPlan` for one rank, in threads or processes, ahead of the training.

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
        divisible_by: int = 1,
        full_shapes: bool = False,
        threads: int = 1,
        prefetch: int = 3,
        remix: Callable[[Row, int], Example] | None = None,
        processes: int = 0,
        again: Callable[[], Loader[Item]] | None = None,
        pinned: bool = False,
    ) -> None:
        """Take the dataset; nothing is read yet.

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
            divisible_by: The number of utterances of a full step is a multiple of this; see `StepPlan`.
            full_shapes: Whether the last step of an epoch has the shape of a full one, too.
            threads: Number of steps that are read at the same time.
            prefetch: Number of steps that are read ahead; by processes, at least two each.
            remix: Makes the example of an utterance in an epoch, in the place of `read`; None: `read` does.
            processes: Number of processes that read steps, instead of threads.
            again: Makes a loader like this one in such a process; has to be picklable.
            pinned: Whether batches are put into page-locked memory, from which copies to a GPU do not wait.

        Raises:
            ValueError: There is no utterance, or one does not fit into a step.
        """
        config = log_mel.config
        self._rows, self._read, self._mel, self._prepare = rows, read, log_mel, prepare
        self._remix = remix
        self._max_frames = max_frames
        self.frames = frames_of_rows(rows, config.hop_length, max_frames)
        """Length of every utterance after cropping, in mel frames."""
        self._budget, self._divisible_by = frames_per_step, divisible_by
        self._full_shapes = full_shapes
        self._seed, self._micro = seed, micro_frames
        self._augment = augment if augment and augment.probability else None
        self._rank, self._world_size = rank, world_size
        self._threads, self._prefetch = threads, max(1, prefetch)
        if processes and again is None:
            raise ValueError("processes need a function that makes the loader again")
        self._processes, self._again, self._pinned = processes, again, pinned
        if not len(rows) or int(self.frames.max()) > frames_per_step:
            StepPlan(self.frames, frames_per_step, seed, divisible_by)  # says what is wrong

    @property
    def utterances(self) -> int:
        """Number of utterances in an epoch."""
        return len(self._rows)

    @property
    def frame_s(self) -> float:
        """Seconds from one mel frame to the next."""
        return self._mel.config.hop_length / self._mel.config.sample_rate

    def steps(
        self, number: int = 0, position: Position | None = None, divisible_by: int | None = None
    ) -> Iterator[Step[Item]]:
        """Yield this rank's share of every step from step `number` at `position` on, without end.

        An error while reading is raised here, when the step that it belongs to is due; an utterance that is damaged is
        none: it becomes one of the step's faults.

        Args:
            number: Number of the first step.
            position: Position of the first step; None: the beginning.
            divisible_by: As in the constructor, where a resumed run knows better.
        """
        if divisible_by is None:
            divisible_by = self._divisible_by
        plan = StepPlan(self.frames, self._budget, self._seed, divisible_by)
        planned = enumerate(plan.steps(position or Position()), start=number)
        return self._by_processes(planned) if self._processes else self._by_threads(planned)

    def _by_threads(self, planned: Iterator[tuple[int, PlannedStep]]) -> Iterator[Step[Item]]:
        def read(number: int, step: PlannedStep) -> Step[Item]:
            made = self.read(number, step)
            return made.pin_memory() if self._pinned else made

        with ThreadPoolExecutor(self._threads, thread_name_prefix="loader") as pool:
            waiting: deque[Future[Step[Item]]] = deque()
            try:
                for index, step in planned:
                    waiting.append(pool.submit(read, index, step))
                    if len(waiting) > self._prefetch:
                        yield waiting.popleft().result()
            finally:
                for future in waiting:
                    future.cancel()

    def _by_processes(self, planned: Iterator[tuple[int, PlannedStep]]) -> Iterator[Step[Item]]:
        steps: DataLoader[Step[Item]] = DataLoader(
            _Steps(self._again),  # type: ignore[arg-type]
            batch_size=None,
            sampler=planned,
            num_workers=self._processes,
            prefetch_factor=max(2, -(-self._prefetch // self._processes)),
            collate_fn=_as_it_is,
            pin_memory=self._pinned,
            # Not "fork": a thread of this process may hold a lock, on which the child would wait for ever.
            multiprocessing_context="forkserver",
            worker_init_fn=partial(_begin, current_source()),
        )
        yield from steps

    def read(self, number: int, step: PlannedStep) -> Step[Item]:
        """Read this rank's share of a step of this number."""
        groups = step.batches(self._rank, self._world_size, self._micro, full=self._full_shapes)
        batches = [self._batch(group, number, step) for group in groups]
        faults = tuple(fault for batch in batches for fault in batch.faults)
        frames = int(self.frames[list(step.utterances)].sum())
        prepared = tuple(map(self._prepare, batches))
        return Step(number, step.after, prepared, frames, len(step.utterances), faults)

    def _batch(self, utterances: Sequence[int | None], number: int, step: PlannedStep) -> Batch:
        rows = [None if index is None else self._rows[index] for index in utterances]
        frames = [step.length if index is None else int(self.frames[index]) for index in utterances]
        seeds = tuple(derive_seed(self._seed, "step", number, row.key if row else "") for row in rows)
        augmentations: dict[int, Augmentation] = {}
        examples: list[Example | CachedMels | None] = []
        faults = []
        mel = self._mel.config
        for place, (row, length, seed) in enumerate(zip(rows, frames, seeds, strict=True)):
            source_frames = length
            if self._augment and row:
                augmentations[place] = draw_augmentation(seed, mel.n_mels, self._augment)
                source_frames = augmentations[place].source_frames(length, frames_of(row.samples, mel.hop_length, 0))
            crop = partial(self._crop, epoch=step.before.epoch, frames=source_frames)
            found = None if row is None else _read_or_fault(row, crop)
            if isinstance(found, Fault):
                faults.append(found)
            examples.append(None if isinstance(found, Fault) else found)

        def augment(index: int, pair: Tensor) -> Tensor:
            return augmentations[index](pair, frames[index], mel) if index in augmentations else pair

        keys = tuple(row.key if row else "" for row in rows)
        return collate(keys, seeds, examples, self._mel, augment, length=step.length, faults=faults)

    def _crop(self, row: Row, epoch: int, frames: int) -> Example | CachedMels:
        """Read an utterance, or a stretch of it that epoch and seed choose."""
        example = self._read(row) if self._remix is None else self._remix(row, epoch)
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


class _Steps(Dataset[Any]):
    """The steps of a loader that is made again in a process that reads them."""

    def __init__(self, again: Callable[[], Loader[Any]]) -> None:
        self._again = again
        self._loader: Loader[Any] | None = None

    def __getitem__(self, planned: tuple[int, PlannedStep]) -> Step[Any]:
        if self._loader is None:
            self._loader = self._again()
        return self._loader.read(*planned)


def _as_it_is(step: Any) -> Any:
    return step


def _begin(source: Source | None, number: int) -> None:
    """Let a process that reads steps find files as this one does: recordings may be members of archives."""
    use_source(source)


def pin_memory(item: Any) -> Any:
    """Return a copy of a batch in page-locked memory; what has no such copy as it is."""
    return item.pin_memory() if hasattr(item, "pin_memory") else item


def collate(
    keys: Sequence[str],
    seeds: Sequence[int],
    examples: Sequence[Example | CachedMels | None],
    log_mel: LogMel,
    augment: Callable[[int, Tensor], Tensor] = lambda _, pair: pair,
    *,
    length: int = 0,
    faults: Sequence[Fault] = (),
) -> Batch:
    """Compute the log-mels of waveforms, or decode cached ones, augment them, and pad them with the log floor.

    Args:
        keys: Keys of the utterances.
        seeds: Seeds of the utterances.
        examples: Waveforms or cached log-mels of the utterances; None: the row is silence and counts nothing.
        log_mel: The mel transform.
        augment: Takes the index of an utterance and its log-mels ``[2, T, F]``; returns those to train on.
        length: Frames that every utterance is padded to; 0: those of the longest.
        faults: Why rows are None that have a key.

    Raises:
        ValueError: Noisy and clean waveform differ in length; the message names the utterance.
    """
    config = log_mel.config
    mels: list[Tensor | None] = []
    for index, (key, example) in enumerate(zip(keys, examples, strict=True)):
        if example is None:
            mels.append(None)
            continue
        if isinstance(example, CachedMels):
            mels.append(augment(index, torch.from_numpy(example.decode(example.stored)).transpose(0, 1)))
            continue
        if len(example.noisy) != len(example.clean):
            raise ValueError(f"{key}: noisy has {len(example.noisy)} samples, clean {len(example.clean)}")
        pair = torch.from_numpy(np.stack((example.noisy, example.clean)))
        # Silence extends a waveform that is too short for the STFT's reflection at the edges.
        short = config.n_fft // 2 + 1 - pair.shape[1]
        padded = torch.nn.functional.pad(pair, (0, short)) if short > 0 else pair
        mels.append(augment(index, log_mel(padded)[:, : config.frames(pair.shape[1])]))
    longest = max([length, *(mel.shape[1] for mel in mels if mel is not None)]) or 1
    lengths = [longest if mel is None else mel.shape[1] for mel in mels]
    both = torch.full((2, len(mels), longest, config.n_mels), config.log_floor)
    for index, mel in enumerate(mels):
        if mel is not None:
            both[:, index, : lengths[index]] = mel
    weights = None if all(mel is not None for mel in mels) else torch.tensor([float(mel is not None) for mel in mels])
    return Batch(
        tuple(keys),
        tuple(seeds),
        both[0],
        both[1],
        torch.tensor(lengths),
        _pad_ids([() if example is None else example.text_ids for example in examples]),
        weights,
        tuple(faults),
        whole=min(lengths) == longest,
    )


def _read_or_fault(row: Row, read: Callable[[Row], Item]) -> Item | Fault:
    """Read an utterance; return why it cannot be used, if the file or the recording itself is to blame.

    Raises:
        OSError: The storage fails (`flowse.refusal.SURROUNDINGS`), also when it is asked again.
    """
    try:
        with refusing(row.key):
            found = _until_read(row, read)
            if isinstance(found, Example):
                _require_pair(row, found)
            return found
    except Refusal as refusal:
        return Fault(row.key, refusal.reason, refusal.detail)
    except DamagedFile as error:
        return Fault(row.key, "damaged", str(error))


def _until_read(row: Row, read: Callable[[Row], Item]) -> Item:
    """Read an utterance; where the storage fails for a moment, read it again."""
    for pause_s in _PAUSES_S:
        try:
            return read(row)
        except OSError as error:
            if not is_of_surroundings(error):
                raise
            time.sleep(pause_s)
    return read(row)


def _require_pair(row: Row, example: Example) -> None:
    """Refuse waveforms from which nothing can be learned.

    Raises:
        Refusal: They are empty, of different lengths, or of several channels.
    """
    if example.noisy.ndim != 1 or example.clean.ndim != 1:
        raise Refusal.failed("several_channels", f"{row.key}: the waveforms must have one channel")
    noisy, clean = len(example.noisy), len(example.clean)
    if not noisy or noisy != clean:
        detail = f"{row.key}: noisy has {noisy} samples, clean {clean}; both must have the same number, and some"
        raise Refusal.failed("unequal_lengths" if noisy != clean else "empty_file", detail)


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
    frames = frames_of_rows(rows, hop, max_frames)
    by_length = np.argsort(-frames, kind="stable").tolist()
    batches, at = [], 0
    while at < len(by_length):
        length = int(frames[by_length[at]])
        count = max(1, frames_per_batch // length)
        group = by_length[at : at + count * world_size]
        at += len(group)
        # Every rank gets as many batches as the others: where weights are sharded, all compute together.
        mine: list[int | None] = list(group[rank::world_size])
        mine += [None] * (-(-len(group) // world_size) - len(mine))
        batches.append(
            _fixed_batch([None if i is None else rows[i] for i in mine], read, log_mel, length, max_frames, seed)
        )
    return batches


def _fixed_batch(
    rows: Sequence[Row | None],
    read: Callable[[Row], Example],
    log_mel: LogMel,
    length: int,
    max_frames: int,
    seed: int,
) -> Batch:
    hop = log_mel.config.hop_length
    examples: list[Example | None] = []
    faults = []
    for row in rows:
        found = None if row is None else _read_or_fault(row, read)
        if isinstance(found, Fault):
            faults.append(found)
        example = None if isinstance(found, Fault) else found
        if example is not None and max_frames and len(example.clean) // hop + 1 > max_frames:
            samples = (max_frames - 1) * hop
            example = Example(example.noisy[:samples], example.clean[:samples])
        examples.append(example)
    keys = [row.key if row else "" for row in rows]
    seeds = [derive_seed(seed, "validation", key) for key in keys]
    return collate(keys, seeds, examples, log_mel, length=length, faults=faults)


def mel_statistics(
    rows: Sequence[Row], read: Callable[[Row], Example], log_mel: LogMel, *, limit: int, seed: int
) -> tuple[float, float]:
    """Measure mean and standard deviation of the clean log-mel over at most `limit` utterances that the seed chooses.

    Args:
        rows: Utterances, ordered by key.
        read: Reads one utterance; those that it cannot read are left out.
        log_mel: The mel transform.
        limit: Number of utterances.
        seed: Seed of the choice.

    Returns:
        Mean and standard deviation over all frames and bins, rounded to 4 decimal places.

    Raises:
        DamagedFile: No chosen utterance can be read; the message says why the first cannot.
    """
    chosen = generator(derive_seed(seed, "mel statistics")).permutation(len(rows))[:limit]
    count, total, squares = 0, 0.0, 0.0
    faults = []
    for index in sorted(chosen.tolist()):
        example = _read_or_fault(rows[index], read)
        if isinstance(example, Fault):
            faults.append(example)
            continue
        mel = collate([rows[index].key], [0], [example], log_mel).clean.double()
        count += mel.numel()
        total += float(mel.sum())
        squares += float(mel.square().sum())
    if not count:
        raise DamagedFile(f"none of {len(faults)} mixtures can be read, the first: {faults[0].detail}")
    mean = total / count
    return round(mean, 4), round(math.sqrt(max(squares / count - mean**2, 1e-8)), 4)
