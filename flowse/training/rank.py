"""One rank of a training: its share of the data, its copy of the model, and the work from first to last step."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.profiler import profile, schedule

from flowse.audio.mel import LogMel
from flowse.data.batching import Batch, CachedMels, Example, Loader, fixed_batches
from flowse.data.mel_cache import MelCache, machine_folder
from flowse.data.shards import IndexRow
from flowse.data.token_ids import token_reader
from flowse.errors import DamagedFile
from flowse.export import ExportError
from flowse.fetching import is_far
from flowse.flow.config import DrawConfig
from flowse.seeding import derive_seed, generator
from flowse.training.checkpoint import CheckpointError
from flowse.training.config import DISTIL
from flowse.training.history import History, write_progress
from flowse.training.job import Job
from flowse.training.listening import Listener, ListeningError
from flowse.training.loop import TrainBatch, Trainer
from flowse.training.lora import adapt, is_adapter, merged
from flowse.training.mixtures import INDEX, example_reader, open_rows, redrawing_reader
from flowse.training.optim import freeze
from flowse.training.progress import Progress
from flowse.training.skipped import BudgetSpent
from flowse.training.start import initial_system, teacher_of
from flowse.training.throughput import peak_flops, training_flops_per_frame

PERMANENT_ERRORS = (BudgetSpent, CheckpointError, DamagedFile, ExportError, ListeningError)
"""Errors that starting the ranks again does not mend; their messages say what does."""

_NOTHING_WITHHELD = DrawConfig(drop_condition=0.0, drop_text=0.0, drop_both=0.0)


class Rank:
    """One rank of a training, alone or in a group (`torch.distributed`) whose ranks train together.

    Example:
        >>> rank = Rank(job)
        >>> rank.train(print, History(job, rank.trainer.state, rank.frames_per_s_at_peak))
    """

    def __init__(
        self,
        job: Job,
        rank: int = 0,
        world_size: int = 1,
        device: str = "cpu",
        stop: Callable[[], bool] = lambda: False,
    ) -> None:
        """Build model and loader, and resume from the newest checkpoint if there is one.

        Args:
            job: What to train.
            rank: Number of this rank, from 0.
            world_size: Number of ranks.
            device: Where to compute.
            stop: Whether the training shall save a checkpoint and end; see `StopRequest`.

        Raises:
            CheckpointError: The newest checkpoint is of another training.
            ExportError: The start's weights cannot be read or do not fit.
            ValueError: A pattern of `freeze` matches no parameter, or all are frozen.
        """
        config, spec = job.config, job.spec
        torch.set_num_threads(job.threads)
        torch.manual_seed(derive_seed(job.seed, "train", "weights"))
        system = initial_system(spec, job.start)
        lora = config.lora
        if lora.rank:
            adapt(system, lora)
        if config.objective == DISTIL and job.start is not None:
            system.distil_from(teacher_of(job.start), config.distil)
        freeze(system, config.freeze)
        system.activation_checkpointing(config.activation_checkpointing)
        self.job, self._rank, self._world_size = job, rank, world_size
        log_mel, read = LogMel(spec.mel), example_reader(job.shards, spec)
        dev = open_rows(job.shards, "dev", job.index)
        seed = derive_seed(job.seed, "train")
        if config.mel_cache:
            self._fill_cache()
        loader = open_loader(job, rank, world_size, pinned=device.startswith("cuda"))
        order = generator(derive_seed(seed, "validation")).permutation(len(dev))
        chosen = [dev[index] for index in order[: config.validation_utterances].tolist()]
        validation = fixed_batches(
            chosen,
            read,
            log_mel,
            frames_per_batch=config.micro_frames or config.frames_per_step,
            max_frames=config.max_frames,
            seed=seed,
            rank=rank,
            world_size=world_size,
        )
        self.trainer = Trainer(
            system,
            loader,
            # Validation measures the model with all of its conditions: nothing is withheld.
            [TrainBatch.drawn(batch, _NOTHING_WITHHELD) for batch in validation],
            config=config,
            optim=config.optim,
            loss=config.loss,
            folder=job.checkpoints,
            seed=seed,
            identity=job.identity,
            device=device,
            parallel=config.parallel,
            compile_network=config.compile,
            segment=job.segment,
            listener=None
            if job.listening is None
            else Listener(
                job.listening,
                spec,
                job.shards,
                seed=job.seed,
                device=device,
                threads=job.threads,
                rank=rank,
                world_size=world_size,
                to_spec=(lambda weights: merged(weights, lora)) if lora.rank else dict,
            ),
            keeps=is_adapter if lora.rank else lambda name: True,
            stop=stop,
            timeout_s=job.collective_timeout_s,
        )
        peak = peak_flops(device)
        frames = round(float(loader.frames.mean()))
        self.frames_per_s_at_peak = peak and world_size * peak / training_flops_per_frame(spec, frames)
        """Frames a second if all GPUs did nothing but this model's arithmetic; None where their peak is unknown."""
        self.examples: Batch | None = None
        """The mixtures of split dev that are enhanced and drawn at every validation."""
        if chosen[: config.examples]:
            (self.examples, *_) = fixed_batches(
                chosen[: config.examples],
                read,
                log_mel,
                frames_per_batch=10**9,
                max_frames=config.max_frames,
                seed=seed,
            )

    def train(self, report: Callable[[Progress], None] | None = None, history: History | None = None) -> None:
        """Train to the last step.

        Args:
            report: Called at every record, validation and checkpoint.
            history: Where they are written down, with enhanced examples at every validation; of rank 0 alone.

        Raises:
            BudgetSpent: More steps or mixtures had to be left out than may be.
        """
        if history is not None:
            for note in self.trainer.notes:
                history.note(note)
        with self._profiled():
            self._train(report, history)

    @contextlib.contextmanager
    def _profiled(self) -> Iterator[None]:
        """Let torch's profiler record some steps of rank 0, if that is asked for."""
        steps = self.job.config.profile_steps
        if not steps or self._rank:
            yield
            return
        path = self.job.folder / "profile.json"
        with profile(
            schedule=schedule(wait=4, warmup=1, active=steps, repeat=1),
            on_trace_ready=lambda recorded: recorded.export_chrome_trace(str(path)),
        ) as profiler:
            self.trainer.after_step = profiler.step
            yield

    def _train(self, report: Callable[[Progress], None] | None, history: History | None) -> None:
        # Weights that are sharded over the ranks can only be used by all ranks together.
        enhances = history is not None or self.job.config.parallel == "fsdp"
        for progress in self.trainer.run():
            if history is not None:
                history.write(progress)
            if self.examples is not None and progress.validation is not None and enhances:
                enhanced = self.trainer.enhance(self.examples)
                if history is not None:
                    history.write_examples(progress.step, self.examples, enhanced)
            if report is not None:
                report(progress)

    def _fill_cache(self) -> None:
        """Build the mel cache of this machine together with its other ranks, and wait for those of other machines."""
        job = self.job

        def report(done: int, of: int) -> None:
            if self._rank == 0:
                write_progress(job.folder, {"cached": done, "shards": of, "seconds": time.monotonic() - begun})

        begun = time.monotonic()
        open_cache(job, open_rows(job.shards, "train", job.index)).fill(
            job.threads, self._rank / self._world_size, report
        )
        if torch.distributed.is_initialized():
            torch.distributed.barrier()


def open_cache(job: Job, rows: Sequence[IndexRow]) -> MelCache:
    """Return the mel cache of this machine, as far as it is filled."""
    config, without_text = job.config, dataclasses.replace(job.spec, vocabulary=())
    folder = Path(config.mel_cache_folder) if config.mel_cache_folder else machine_folder()
    limit = round(config.mel_cache_gb * 1e9)
    return MelCache(folder, rows, example_reader(job.shards, without_text), LogMel(job.spec.mel), limit)


def open_loader(job: Job, rank: int, world_size: int, *, pinned: bool = False) -> Loader[TrainBatch]:
    """Return a rank's loader; the processes that read for it make it again."""
    config, spec = job.config, job.spec
    rows = open_rows(job.shards, "train", job.index)
    read: Callable[[Any], Example | CachedMels] = example_reader(job.shards, spec)
    if config.mel_cache:
        cache, tokens = open_cache(job, rows), token_reader(spec.vocabulary)
        read = lambda row: cache.read(row, tokens(row))  # noqa: E731
    return Loader(
        rows,
        read,
        LogMel(spec.mel),
        lambda batch: TrainBatch.drawn(batch, config.draw),
        frames_per_step=config.frames_per_step,
        max_frames=config.max_frames,
        micro_frames=config.micro_frames,
        augment=config.augment,
        seed=derive_seed(job.seed, "train"),
        rank=rank,
        world_size=world_size,
        full_shapes=config.compile,
        threads=config.loader_threads,
        # Other processes do not know the store.
        processes=0 if any(map(is_far, _folders(job))) else config.loader_processes,
        again=partial(open_loader, job, rank, world_size),
        pinned=pinned,
        remix=redrawing_reader(job.redraw, spec) if job.redraw else None,
    )


def _folders(job: Job) -> Iterator[Path]:
    """Yield a path in each folder that the loader reads from."""
    yield job.shards / INDEX
    if job.redraw is not None:
        yield from (root / INDEX for root in job.redraw.roots.values())
