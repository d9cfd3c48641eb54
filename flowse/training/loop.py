"""The training loop: optimiser steps, validations and checkpoints, each reported as `Progress`."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import math
import resource
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import get_model_state_dict
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from flowse.data.batching import Batch, Fault, Loader, Step
from flowse.data.step_plan import Position
from flowse.errors import DamagedFile
from flowse.flow.config import DrawConfig, LossConfig
from flowse.flow.path import Draws, draw
from flowse.flow.sampling import Sampling
from flowse.model.blocks import flash_agrees
from flowse.model.system import System
from flowse.model.text_encoder import TextEncoder
from flowse.seeding import derive_seed
from flowse.training.checkpoint import (
    CheckpointError,
    State,
    is_old,
    newest_whole,
    read_state,
    renew,
    sweep,
)
from flowse.training.checkpoint_reader import CheckpointReader
from flowse.training.checkpoint_writer import CheckpointWriter
from flowse.training.config import PARALLEL, LoopConfig, OptimConfig
from flowse.training.ledger import Segment
from flowse.training.listening import Listener, ListeningError
from flowse.training.optim import MovingAverage, adamw, learning_rate
from flowse.training.progress import Progress
from flowse.training.ranks import Ranks
from flowse.training.skipped import NAME as SKIPPED
from flowse.training.skipped import BudgetSpent, NonFiniteLoss, SkipList, Skipped, blame, chosen


@dataclass(frozen=True)
class TrainBatch:
    """A batch with the random draws of a training step.

    Attributes:
        batch: Log-mels, lengths and text of the utterances.
        draws: Flow time, noise and withheld conditions of each utterance.
    """

    batch: Batch
    draws: Draws

    @classmethod
    def drawn(cls, batch: Batch, config: DrawConfig) -> TrainBatch:
        """Add the draws that follow from each utterance's seed."""
        lengths = [int(length) for length in batch.lengths]
        drawn = draw(batch.seeds, lengths, batch.noisy.shape[2], config)
        # The batch may be padded beyond its longest utterance.
        beyond = batch.noisy.shape[1] - drawn.noise.shape[1]
        return cls(batch, dataclasses.replace(drawn, noise=nn.functional.pad(drawn.noise, (0, 0, 0, beyond))))

    def to(self, device: torch.device) -> TrainBatch:
        """Copy to a device."""
        return TrainBatch(self.batch.to(device), self.draws.to(device))

    def pin_memory(self) -> TrainBatch:
        """Copy into page-locked memory, from which copies to a GPU do not wait."""
        draws = dataclasses.replace(self.draws, noise=self.draws.noise.pin_memory())
        return TrainBatch(self.batch.pin_memory(), draws)


@dataclass
class _Window:
    """Sums over the steps since the last `Progress`.

    Attributes:
        started: When the first of them began, by `time.perf_counter`.
        steps: Optimiser steps.
        waited: Seconds that this rank waited for data.
        held: Seconds that this rank waited for the others to begin a step.
        frames: Real mel frames over all ranks.
        real: Real mel frames of this rank.
        padded: Mel frames of this rank, padding included.
        terms: Loss terms, summed over this rank's frames.
        norms: Gradient norm of each step that was applied.
        skipped: Steps that were not applied.
    """

    started: float = field(default_factory=time.perf_counter)
    steps: int = 0
    waited: float = 0.0
    held: float = 0.0
    frames: int = 0
    real: int = 0
    padded: int = 0
    terms: dict[str, Tensor] = field(default_factory=dict)
    norms: list[float] = field(default_factory=list)
    skipped: int = 0

    def add(self, name: str, value: Tensor) -> None:
        self.terms[name] = self.terms[name] + value if name in self.terms else value


class Trainer:
    """The training loop of one rank.

    Example:
        >>> for progress in Trainer(system, loader, validation, ...).run():
        ...     print(progress)
    """

    def __init__(
        self,
        system: System,
        loader: Loader[TrainBatch],
        validation: Sequence[TrainBatch],
        *,
        config: LoopConfig,
        optim: OptimConfig,
        loss: LossConfig,
        folder: Path,
        seed: int,
        identity: Mapping[str, Any],
        device: torch.device | str = "cpu",
        parallel: str = "ddp",
        compile_network: bool = False,
        segment: Segment | None = None,
        listener: Listener | None = None,
        keeps: Callable[[str], bool] = lambda name: True,
        stop: Callable[[], bool] = lambda: False,
        timeout_s: float = 1800.0,
    ) -> None:
        """Prepare a training, and resume from the newest whole checkpoint of `folder` if there is one.

        The ranks of a process group (`torch.distributed`) train together; each must be given the same arguments, but
        for its own loader and share of the validation set. Rank 0 alone reads and writes checkpoints; the others get
        from it what it has read.

        Args:
            system: What to train; frozen parameters stay as they are.
            loader: This rank's steps.
            validation: This rank's share of the validation set; if all ranks' shares are empty, nothing is validated.
            config: Number of steps, and intervals of logging, validation and checkpoints.
            optim: Optimiser, schedule, moving average.
            loss: Weights of the loss terms.
            folder: Folder of the checkpoints; shared by all ranks.
            seed: Seed of the dropout in the network.
            identity: What checkpoints cannot change, as plain values; a checkpoint of another identity is refused.
            device: Where to compute.
            parallel: "ddp": every rank holds all weights; "fsdp": weights, gradients and optimiser are
                sharded.
            compile_network: Compile the networks' blocks (`torch.compile`).
            segment: Settings and data of what is trained now; if the newest checkpoint's last segment has others, a new
                segment goes on from there.
            listener: Judges the averaged weights by ear; None: they are not judged so.
            keeps: Whether checkpoints hold the parameter of a name; not if the system has it from elsewhere anyway.
            stop: Whether the training shall save a checkpoint and end, asked before every step on every rank.
            timeout_s: Longest wait of a rank for the others in one exchange between processors.

        Raises:
            CheckpointError: The newest checkpoint is of another run.
            DamagedFile: No mixture of the validation set can be read.
        """
        self._config, self._optim, self._loss = config, optim, loss
        self._folder, self._seed, self._identity = folder, seed, dict(identity)
        self._device = torch.device(device)
        self._loader = loader
        self._ranks, self._stop, self._listener, self._keeps = Ranks(timeout_s), stop, listener, keeps
        self._rank, self._world_size = self._ranks.rank, self._ranks.world_size
        self.system = system.to(self._device)
        encoders = [module for module in system.modules() if isinstance(module, TextEncoder)]
        self._symbols = min((encoder.embedding.num_embeddings for encoder in encoders), default=1) - 1
        known, unknown = self._known(validation)
        self._validation = [batch.to(self._device) for batch in known]
        self._module: nn.Module = self._wrap(parallel)
        self._optimizer = adamw(self.system, optim)
        self._ema = MovingAverage(self.system, optim.ema_decay)
        self.system.averaged = self._ema.applied
        if config.precision == "bf16" and flash_agrees(self._device):
            self.system.flash_attention(True)
        if compile_network:
            # Block by block: all blocks of a network share one compilation, and 22 at once take minutes.
            for network in self.system.networks:
                for block in network.blocks:
                    block.compile(dynamic=True)
        now = segment or Segment()
        self._skips, damaged = self._ranks.first(lambda: SkipList.recovered(folder, now.dataset))
        self.resumed_from: Path | None = None
        self.notes: list[str] = [damaged] if damaged else []
        """What a person should know of the start, e.g. that a checkpoint was damaged."""
        self.stopped = False
        """Whether the training ended because it was asked to."""
        self.after_step: Callable[[], None] = lambda: None
        """Called after every step."""
        self._saved_step = -1
        self._writer = CheckpointWriter(folder, keep_last=config.keep_last, device=self._device, ranks=self._ranks)
        self._state = self._begun(now)
        self._note_faults(-1, [*unknown, *(fault for item in self._validation for fault in item.batch.faults)])
        self._validates = bool(self._validation)

    @property
    def state(self) -> State:
        """State of the training after the last step: what a checkpoint of it holds besides tensors."""
        return self._state

    @property
    def skipped(self) -> SkipList:
        """What was left out so far."""
        return self._skips

    def run(self) -> Iterator[Progress]:
        """Train to the last step and yield at every record, validation and checkpoint; a finished training yields none.

        Raises:
            BudgetSpent: More steps or utterances had to be left out than may be; a checkpoint was written before.
        """
        if self._state.finished:
            return
        self.system.train()
        position = Position(self._state.epoch, self._state.samples)
        steps = self._loader.steps(self._state.step, position, self._state.divisible_by)
        window, config = _Window(), self._config
        with contextlib.ExitStack() as at_end:
            at_end.callback(self._writer.wait)
            at_end.enter_context(contextlib.closing(steps))  # type: ignore[type-var]
            while not self._state.finished:
                before = time.perf_counter()
                step = next(steps)
                window.waited += time.perf_counter() - before
                batches, frames, asked = self._agree(step, window)
                if asked:
                    self._end_early()
                    return
                self._train(step, batches, frames, window)
                self._advance(step)
                self._require_budget()
                self.after_step()
                if any(map(self._is_due, (config.log_every, config.validate_every, config.checkpoint_every))):
                    yield self._report(window)
                    window = _Window()

    def _agree(self, step: Step[TrainBatch], window: _Window) -> tuple[list[TrainBatch], int, bool]:
        """Agree with the other ranks on what a step is made of, before any of them computes.

        Returns:
            This rank's micro-batches without what is left out, the number of real frames over all ranks, and whether
            the training shall end before the step.
        """
        batches, unknown = self._known(step.batches, self._skips.left_out(step.number))
        mine = sum(item.batch.frames for item in batches)
        faults = self._faults(step.number, [*step.faults, *unknown])
        before = time.perf_counter()
        frames, found, asked = self._ranks.totals([mine, len(faults), self._stop()])
        window.held += time.perf_counter() - before
        if found:
            self._note(itertools.chain.from_iterable(self._ranks.gather(faults)))
        return batches, round(frames), asked > 0

    def _known(
        self, items: Iterable[TrainBatch], left_out: Collection[str] = ()
    ) -> tuple[list[TrainBatch], list[Fault]]:
        """Return batches without what is left out or has token ids that the model does not know, and these as faults.

        An id outside of the vocabulary would end the process, on a GPU without a name.
        """
        kept: list[TrainBatch] = []
        faults: list[Fault] = []
        for item in items:
            batch = item.batch.without(left_out)
            unknown = batch.beyond(self._symbols) if self._symbols else ()
            faults += unknown
            kept.append(dataclasses.replace(item, batch=batch.without([fault.key for fault in unknown])))
        return kept, faults

    def save(self) -> None:
        """Write a checkpoint, unless this step has one, and wait for it; all ranks have to call this together."""
        if self._saved_step != self._state.step:
            self._save()
        self._writer.wait()

    def _end_early(self) -> None:
        self.save()
        self.stopped = True

    def _wrap(self, parallel: str) -> nn.Module:
        if parallel not in PARALLEL:
            raise ValueError(f"parallel={parallel!r} must be one of {', '.join(PARALLEL)}")
        if self._world_size == 1:
            return self.system
        if parallel == "ddp":
            devices = [self._device] if self._device.type == "cuda" else None
            return DistributedDataParallel(self.system, device_ids=devices, gradient_as_bucket_view=True)
        for network in self.system.networks:
            for block in network.blocks:
                fully_shard(block)
        fully_shard(self.system)
        register_fsdp_forward_method(self.system, "enhance")
        return self.system

    def _train(self, step: Step[TrainBatch], batches: Sequence[TrainBatch], frames: int, window: _Window) -> None:
        segment = self._state.segments[-1]
        lr = learning_rate(
            step.number, self._config.max_steps, self._optim, from_step=segment.from_step, from_lr=segment.from_lr
        )
        for group in self._optimizer.param_groups:
            group["lr"] = lr
        self._state = dataclasses.replace(self._state, lr=lr)
        window.steps += 1
        if not frames or self._skips.skips(step.number):
            window.skipped += 1
            return
        # Dropout masks are drawn inside the network, and so are the only draws that depend on the rank.
        torch.manual_seed(derive_seed(self._seed, "dropout", step.number, self._rank))
        computed = []
        for index, item in enumerate(batches):
            with self._gradients_exchanged(index == len(batches) - 1):
                terms = self._losses(item.to(self._device), step.number / self._config.max_steps)
                # The ranks' gradients are averaged afterwards: the result is the sum over all frames divided by their
                # number.
                (_counted(terms["loss"], item.batch) * self._world_size / frames).backward()  # type: ignore[no-untyped-call]
            computed.append((item.batch, {name: value.detach() for name, value in terms.items()}))
        norm = float(self._clip())
        limit = self._config.explode_norm or math.inf
        # One rank's faulty processor must not part the ranks: if one of them cannot apply the step, none does.
        if self._ranks.totals([not (math.isfinite(norm) and norm <= limit)])[0]:
            self._optimizer.zero_grad(set_to_none=True)
            self._blame(step.number, computed, norm)
            window.skipped += 1
            return
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self._ema.update()
        window.norms.append(norm)
        window.frames += frames
        for batch, terms in computed:
            for name, value in terms.items():
                window.add(name, _counted(value, batch))
            window.real += batch.frames
            window.padded += batch.padded_frames

    def _blame(self, step: int, computed: Sequence[tuple[Batch, Mapping[str, Tensor]]], norm: float) -> None:
        """List what spoilt a step, by the utterances' own losses on all ranks."""
        losses = []
        for batch, terms in computed:
            values = (terms["loss"].cpu() / batch.lengths).tolist()
            rows = zip(batch.keys, values, batch.counted, strict=True)
            losses += [(key, loss) for key, loss, counts in rows if counts]
        mine = blame(step, losses, norm, rank=self._rank, dataset=self._skips.dataset)
        self._note(chosen(itertools.chain.from_iterable(self._ranks.gather(mine))))

    def _faults(self, step: int, faults: Sequence[Fault]) -> list[Skipped]:
        facts = {"step": step, "rank": self._rank, "dataset": self._skips.dataset}
        rows = [
            Skipped(key=fault.key, kind="unreadable", reason=fault.reason, detail=fault.detail, **facts)  # type: ignore[arg-type]
            for fault in faults
        ]
        return self._skips.unknown(rows)

    def _note_faults(self, step: int, faults: Sequence[Fault]) -> None:
        self._note(itertools.chain.from_iterable(self._ranks.gather(self._faults(step, faults))))

    def _note(self, rows: Iterable[Skipped]) -> None:
        """Add rows to the list of every rank; rank 0 writes it before anything follows from them."""
        listed = list(rows)
        if not listed:
            return
        self._skips.note(listed)
        self._ranks.first(lambda: self._skips.write(self._folder))

    def _require_budget(self) -> None:
        steps, utterances = self._skips.skipped_steps, self._skips.utterances
        allowed, list_path = self._config.max_skipped_share * self._loader.utterances, self._folder / SKIPPED
        error: BudgetSpent | None = None
        if steps > self._config.max_skipped_steps:
            last = next(row for row in reversed(self._skips.rows) if row.kind != "unreadable")
            limit = self._config.explode_norm or math.inf
            error = NonFiniteLoss(
                f"step {last.step}: the gradient's norm is {last.grad_norm:g} (explode_norm={limit:g}), and it is the "
                f"{steps}th step that is not applied, max_skipped_steps={self._config.max_skipped_steps}; {list_path} "
                "names the utterances: mend them, or lower optim.lr; a rerun goes on from here"
            )
        elif utterances > max(1.0 if self._config.max_skipped_share else 0.0, allowed):
            last = next(row for row in reversed(self._skips.rows) if row.kind != "suspect")
            error = BudgetSpent(
                f"{utterances} of {self._loader.utterances} utterances are left out, more than max_skipped_share="
                f"{self._config.max_skipped_share:g}; the last: {last.detail}; {list_path} names them all: mend them, "
                "or raise the share; a rerun goes on from here"
            )
        if error is not None:
            self.save()
            raise error

    def _losses(self, item: TrainBatch, progress: float) -> dict[str, Tensor]:
        batch = item.batch
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._config.precision == "bf16"):
            terms: dict[str, Tensor] = self._module(
                batch.noisy,
                batch.clean,
                None if batch.whole else batch.lengths,
                batch.text_ids,
                item.draws,
                self._loss,
                progress,
            )
        return terms

    def _gradients_exchanged(self, now: bool) -> contextlib.AbstractContextManager[Any]:
        """Let the ranks exchange gradients in the block only if it is the step's last micro-batch."""
        if isinstance(self._module, FSDPModule):
            self._module.set_requires_gradient_sync(now)
        elif isinstance(self._module, DistributedDataParallel) and not now:
            return self._module.no_sync()
        return contextlib.nullcontext()

    def _clip(self) -> Tensor:
        parameters = [p for p in self.system.parameters() if p.grad is not None]
        norm = nn.utils.clip_grad_norm_(parameters, self._optim.clip or math.inf)
        return norm.full_tensor() if isinstance(norm, DTensor) else norm

    def _advance(self, step: Step[TrainBatch]) -> None:
        done = step.number + 1
        finished = "max_steps" if done >= self._config.max_steps else ""
        self._state = dataclasses.replace(
            self._state,
            step=done,
            epoch=step.after.epoch,
            samples=step.after.samples,
            ema_updates=self._ema.updates,
        )
        self._finish(finished)

    def _finish(self, why: str) -> None:
        """Note how far the segment is, and why the training ended, if it did."""
        *before, last = self._state.segments
        last = dataclasses.replace(last, to_step=self._state.step, finished=why)
        self._state = dataclasses.replace(self._state, finished=why, segments=(*before, last))

    def _is_due(self, every: int) -> bool:
        return bool(self._state.finished) or (every > 0 and self._state.step % every == 0)

    def _report(self, window: _Window) -> Progress:
        names = self.system.terms
        none = torch.zeros((), device=self._device)
        sums = self._ranks.sum_on_device(torch.stack([window.terms.get(name, none).float() for name in names]))
        losses = {name: float(value) / max(1, window.frames) for name, value in zip(names, sums, strict=True)}
        elapsed = time.perf_counter() - window.started
        held = self._ranks.gather(window.held)
        validation, best = None, False
        if self._validates and self._is_due(self._config.validate_every):
            measured = self.validate()
            # Rank 0's figures decide for all, whatever the others' last digits are.
            validation = self._ranks.first(lambda: measured)
            best = self._compare_with_best(validation["loss"])
        heard = self._listen() if self._listens_now() else None
        best_heard = heard is not None and self._state.heard_step == self._state.step
        checkpoint = self._save() if best or best_heard or self._is_due(self._config.checkpoint_every) else None
        frame_s = self._loader.frame_s
        rate = window.frames / elapsed
        return Progress(
            step=self._state.step,
            max_steps=self._config.max_steps,
            epoch=self._state.epoch + self._state.samples / self._loader.utterances,
            losses=losses,
            lr=self._optimizer.param_groups[0]["lr"],
            grad_norm=sum(window.norms) / max(1, len(window.norms)),
            frames_per_s=rate,
            audio_hours_per_hour=rate * frame_s,
            data_wait=window.waited / elapsed,
            rank_wait=max(held) / elapsed,
            slowest_rank=held.index(min(held)),
            padding=1 - window.real / max(1, window.padded),
            skipped=window.skipped,
            memory_gib=self._memory_gib(),
            eta_s=(self._config.max_steps - self._state.step) * elapsed / window.steps,
            validation=validation,
            best=best,
            heard=heard,
            checkpoint=checkpoint,
            finished=self._state.finished,
        )

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Return the mean of every loss term over the validation set, with averaged weights."""
        self.system.eval()
        sums: dict[str, Tensor] = {}
        frames = torch.zeros((), device=self._device)
        with self._ema.applied():
            for item in self._validation:
                terms = self._eval_losses(item)
                for name, value in terms.items():
                    sums[name] = sums.get(name, torch.zeros_like(frames)) + _counted(value, item.batch)
                frames += item.batch.frames
            if isinstance(self.system, FSDPModule):
                # Without a backward pass the root module keeps its gathered weights, and the next step would use them.
                self.system.reshard()
        self.system.train()
        names = self.system.terms
        stacked = torch.stack([frames, *(sums.get(name, torch.zeros_like(frames)) for name in names)])
        frames, *values = self._ranks.sum_on_device(stacked)
        if not frames:
            raise DamagedFile("no mixture of the validation set can be read; `verify` says which shards are damaged")
        return {name: float(value / frames) for name, value in zip(names, values, strict=True)}

    def enhance(self, batch: Batch, sampling: Sampling | None = None) -> Tensor:
        """Enhance a batch with averaged weights; under "fsdp" all ranks have to call this at the same time.

        Args:
            batch: Noisy log-mels, lengths and text.
            sampling: Solver settings; None: the defaults.

        Returns:
            Enhanced log-mels ``[B, T, F]``, on the CPU.
        """
        with self._ema.applied():
            log_mel, _ = self.system.enhance(batch.noisy, batch.lengths, batch.text_ids, sampling)
            if isinstance(self.system, FSDPModule):
                self.system.reshard()
        return log_mel.cpu()

    def _eval_losses(self, item: TrainBatch) -> dict[str, Tensor]:
        batch = item.batch
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._config.precision == "bf16"):
            # The system itself: its DDP wrapper would prepare an exchange of gradients.
            terms: dict[str, Tensor] = self.system(
                batch.noisy,
                batch.clean,
                None if batch.whole else batch.lengths,
                batch.text_ids,
                item.draws,
                self._loss,
            )
        return terms

    def _compare_with_best(self, loss: float) -> bool:
        """Note a validation's loss in the state; return whether it is the lowest so far."""
        best = loss < self._state.best_loss
        bad = 0 if best else self._state.bad_validations + 1
        self._state = dataclasses.replace(self._state, bad_validations=bad)
        if best:
            self._state = dataclasses.replace(self._state, best_step=self._state.step, best_loss=loss)
        if self._config.patience and bad >= self._config.patience:
            self._finish(self._state.finished or "patience")
        return best

    def _listens_now(self) -> bool:
        """Whether the averaged weights are judged by ear after this step: every so many validations, and at the end."""
        if self._listener is None or not self._is_due(self._config.validate_every):
            return False
        every = self._listener.listening.config.every
        return bool(self._state.finished) or self._state.step // self._config.validate_every % every == 0

    def _listen(self) -> dict[str, float]:
        """Judge the averaged weights by ear, and note in the state whether they are the best so far.

        Raises:
            ListeningError: A rank could not; a checkpoint was written before.
        """
        assert self._listener is not None
        weights = {name: _full_tensor(value) for name, value in self._ema.shadow.items()}
        try:
            heard = self._listener(weights, self._ranks)
        except ListeningError:
            self.save()
            raise
        metric = self._listener.listening.metric
        value = math.nan if metric is None else heard.get(metric.name, math.nan)
        if self._listener.listening.is_better(value, self._state.heard):
            self._state = dataclasses.replace(self._state, heard_step=self._state.step, heard=value)
        return heard

    def _save(self) -> Path:
        """Begin to write a checkpoint, and return where it will be."""
        path = self._writer.write(self._state, self._tensors())
        self._saved_step = self._state.step
        return path

    def _tensors(self) -> dict[str, Tensor]:
        """Return all tensors of a checkpoint by name; of sharded ones, this rank holds its share."""
        tensors: dict[str, Any] = {}
        for kind, weights in (("model", get_model_state_dict(self.system)), ("ema", self._ema.shadow)):
            tensors |= {f"{kind}.{name}": value for name, value in weights.items() if self._keeps(name)}
        for name, parameter in self.system.named_parameters():
            for what, value in self._optimizer.state.get(parameter, {}).items():
                tensors[f"optimizer.{name}.{what}"] = value
        return tensors

    def _begun(self, segment: Segment) -> State:
        """Return the state that the training begins in: a new one, or that of the newest whole checkpoint.

        Raises:
            CheckpointError: The checkpoint is of another run.
        """
        found = self._ranks.first(self._find_newest)
        if found is None:
            return State(
                step=0,
                epoch=0,
                samples=0,
                ema_updates=0,
                seed=self._seed,
                identity=self._identity,
                segments=(dataclasses.replace(segment, world_sizes=(self._world_size,)),),
                divisible_by=self._config.divisible_by or self._world_size,
                heard_by=self._heard_by,
            )
        path, state, notes = found
        self.resumed_from = self._folder / path.name
        self.notes += notes
        self._restore(self.resumed_from, state.ema_updates)
        self._saved_step = state.step
        if state.heard_by != self._heard_by:  # figures of other recordings or another metric cannot be compared
            state = dataclasses.replace(state, heard_step=-1, heard=None, heard_by=self._heard_by)
        return self._continued(state, segment)

    @property
    def _heard_by(self) -> str:
        return "" if self._listener is None else self._listener.listening.digest

    def _find_newest(self) -> tuple[Path, State, list[str]] | None:
        """Find the newest whole checkpoint; return where it is, its state, and what was passed over."""
        sweep(self._folder)
        path, findings = newest_whole(self._folder)
        if path is None:
            if findings:
                raise CheckpointError(
                    f"no checkpoint of {self._folder} is whole: {'; '.join(findings)}; bring one back from a copy, or "
                    "begin anew (`run train --fresh`)"
                )
            return None
        state = read_state(path)
        if not state.belongs_to(self._identity):
            raise CheckpointError(
                f"{path} is of another run: its network, mel, flow, vocabulary, start or seed differs"
            )
        if is_old(path):
            renew(path)
        return path, state, [f"{finding}: resumed from {path.name} instead" for finding in findings]

    def _restore(self, path: Path, ema_updates: int) -> None:
        """Read weights, averages and the optimiser's state; every rank reads its share."""
        reader = CheckpointReader(path, self._ranks, self._writer.group)
        parameters = dict(self.system.named_parameters())
        for name in reader.names:
            kind, _, rest = name.partition(".")
            owner, _, what = rest.rpartition(".")
            if kind == "optimizer" and owner in parameters:
                parameter = parameters[owner]
                empty = torch.zeros((), device=self._device) if what == "step" else torch.zeros_like(parameter)
                self._optimizer.state[parameter][what] = empty.detach()
        reader.fill(self._tensors())
        self._ema.updates = ema_updates

    def _continued(self, state: State, now: Segment) -> State:
        """Return the state in which a training goes on: in the checkpoint's last segment, or in a new one after it."""
        *_, last = state.segments or (Segment(),)
        if last.is_of(now.settings, now.dataset):
            if last.world_sizes[-1:] != (self._world_size,):
                last = dataclasses.replace(last, world_sizes=(*last.world_sizes, self._world_size))
            return dataclasses.replace(state, segments=(*state.segments[:-1], last))
        segment = dataclasses.replace(
            now, from_step=state.step, to_step=state.step, from_lr=state.lr, world_sizes=(self._world_size,)
        )
        state = dataclasses.replace(state, segments=(*state.segments, segment), finished="")
        if not segment.same_plan(last):
            # A position means nothing in another plan; what is left of the epoch is left out.
            epoch = state.epoch + (state.samples > 0)
            divisible_by = self._config.divisible_by or self._world_size
            state = dataclasses.replace(state, epoch=epoch, samples=0, divisible_by=divisible_by)
        if not segment.same_validation(last):
            state = dataclasses.replace(state, best_step=-1, best_loss=math.inf, bad_validations=0)
        return state

    def _memory_gib(self) -> float:
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device) / 2**30
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def _counted(values: Tensor, batch: Batch) -> Tensor:
    """Add up a loss over the utterances of a batch that count."""
    return values.sum() if batch.weights is None else (values * batch.weights.to(values.device)).sum()


def _full_tensor(value: Tensor) -> Tensor:
    """Return all of a tensor on the CPU, also if it is sharded over the ranks."""
    full = value.full_tensor() if isinstance(value, DTensor) else value
    return full.detach().cpu()
