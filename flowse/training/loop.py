"""The training loop: optimiser steps, validations and checkpoints, each reported as `Progress`."""

from __future__ import annotations

import contextlib
import json
import math
import resource
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from flowse.data.batching import Batch, Loader, Position, Step
from flowse.flow.config import DrawConfig, LossConfig
from flowse.flow.path import Draws, draw
from flowse.flow.sampling import Sampling
from flowse.model.system import System
from flowse.seeding import derive_seed
from flowse.training.checkpoint import Checkpoint, CheckpointError, State, latest, load, prune, save
from flowse.training.config import PARALLEL, LoopConfig, OptimConfig
from flowse.training.optim import MovingAverage, adamw, learning_rate
from flowse.training.progress import Progress

_FULL = StateDictOptions(full_state_dict=True, cpu_offload=True)


class NonFiniteLoss(Exception):
    """Loss or gradient is NaN, infinite or exploding; the message names the file with the step's utterances."""


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
        return cls(batch, draw(batch.seeds, lengths, batch.noisy.shape[2], config))

    def to(self, device: torch.device) -> TrainBatch:
        """Copy to a device."""
        return TrainBatch(self.batch.to(device), self.draws.to(device))


@dataclass
class _Window:
    """Sums over the steps since the last `Progress`.

    Attributes:
        started: When the first of them began, by `time.perf_counter`.
        steps: Optimiser steps.
        waited: Seconds that this rank waited for data.
        frames: Real mel frames over all ranks.
        real: Real mel frames of this rank.
        padded: Mel frames of this rank, padding included.
        terms: Loss terms, summed over this rank's frames.
        norms: Gradient norm of each step.
        keys: Number of each step, and this rank's utterances of it.
    """

    started: float = field(default_factory=time.perf_counter)
    steps: int = 0
    waited: float = 0.0
    frames: int = 0
    real: int = 0
    padded: int = 0
    terms: dict[str, Tensor] = field(default_factory=dict)
    norms: list[Tensor] = field(default_factory=list)
    keys: list[tuple[int, list[str]]] = field(default_factory=list)

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
    ) -> None:
        """Prepare a training, and resume from the newest checkpoint of `folder` if there is one.

        The ranks of a process group (`torch.distributed`) train together; each must be given the same arguments, but
        for its own loader and share of the validation set.

        Args:
            system: What to train; frozen parameters stay as they are.
            loader: This rank's steps.
            validation: This rank's share of the validation set; if all ranks' shares are empty, nothing is validated.
            config: Number of steps, and intervals of logging, validation and checkpoints.
            optim: Optimiser, schedule, moving average.
            loss: Weights of the loss terms.
            folder: Folder of the checkpoints; shared by all ranks.
            seed: Seed of the dropout in the network.
            identity: What is trained, as plain values; a checkpoint of another identity is refused.
            device: Where to compute.
            parallel: "ddp": every rank holds all weights; "fsdp": weights, gradients and optimiser are
                sharded.
            compile_network: Compile the networks' forward pass (`torch.compile`).

        Raises:
            CheckpointError: The newest checkpoint is of another run.
        """
        self._config, self._optim, self._loss = config, optim, loss
        self._folder, self._seed, self._identity = folder, seed, dict(identity)
        self._device = torch.device(device)
        self._loader, self._validation = loader, [batch.to(self._device) for batch in validation]
        self._group = dist.is_available() and dist.is_initialized()
        self._rank = dist.get_rank() if self._group else 0
        self._world_size = dist.get_world_size() if self._group else 1
        self.system = system.to(self._device)
        self._module: nn.Module = self._wrap(parallel)
        self._optimizer = adamw(self.system, optim)
        self._ema = MovingAverage(self.system, optim.ema_decay)
        self.system.averaged = self._ema.applied
        if compile_network:
            for network in self.system.networks:
                network.compile(dynamic=True)
        self._state = State(step=0, epoch=0, samples=0, ema_updates=0, seed=seed, identity=self._identity)
        self.resumed_from: Path | None = None
        self._resume()
        batches = self._sum(torch.tensor(float(len(self._validation)), device=self._device))
        self._validates = float(batches) > 0

    @property
    def state(self) -> State:
        """State of the training after the last step: what a checkpoint of it holds besides tensors."""
        return self._state

    def run(self) -> Iterator[Progress]:
        """Train to the last step and yield at every record, validation and checkpoint; a finished training yields none.

        Raises:
            NonFiniteLoss: Loss or gradient is NaN, infinite or exploding; no checkpoint holds the weights after it.
        """
        if self._state.finished:
            return
        self.system.train()
        position = Position(self._state.epoch, self._state.samples)
        steps = self._loader.steps(self._state.step, position)
        window, config = _Window(), self._config
        with contextlib.closing(steps):  # type: ignore[type-var]
            while not self._state.finished:
                before = time.perf_counter()
                step = next(steps)
                window.waited += time.perf_counter() - before
                self._train(step, window)
                self._advance(step)
                if any(map(self._is_due, (config.log_every, config.validate_every, config.checkpoint_every))):
                    yield self._report(window)
                    window = _Window()

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

    def _train(self, step: Step[TrainBatch], window: _Window) -> None:
        lr = learning_rate(step.number, self._config.max_steps, self._optim)
        for group in self._optimizer.param_groups:
            group["lr"] = lr
        # Dropout masks are drawn inside the network, and so are the only draws that depend on the rank.
        torch.manual_seed(derive_seed(self._seed, "dropout", step.number, self._rank))
        for index, item in enumerate(step.batches):
            last = index == len(step.batches) - 1
            with self._gradients_exchanged(last):
                terms = self._losses(item.to(self._device), step.number / self._config.max_steps)
                # The ranks' gradients are averaged afterwards: the result is the sum over all frames divided by their
                # number.
                scale = item.batch.weight * self._world_size / step.frames
                (terms["loss"].sum() * scale).backward()  # type: ignore[no-untyped-call]
            for name, value in terms.items():
                window.add(name, value.detach().sum() * item.batch.weight)
            window.real += item.batch.frames
            window.padded += item.batch.padded_frames
        window.norms.append(self._clip())
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self._ema.update()
        window.steps += 1
        window.frames += step.frames
        window.keys.append((step.number, [key for item in step.batches for key in item.batch.keys]))

    def _losses(self, item: TrainBatch, progress: float) -> dict[str, Tensor]:
        batch = item.batch
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._config.precision == "bf16"):
            terms: dict[str, Tensor] = self._module(
                batch.noisy, batch.clean, batch.lengths, batch.text_ids, item.draws, self._loss, progress
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
        self._state = State(
            **{
                **vars(self._state),
                "step": done,
                "epoch": step.after.epoch,
                "samples": step.after.samples,
                "ema_updates": self._ema.updates,
                "finished": "max_steps" if done >= self._config.max_steps else "",
            }
        )

    def _is_due(self, every: int) -> bool:
        return bool(self._state.finished) or (every > 0 and self._state.step % every == 0)

    def _report(self, window: _Window) -> Progress:
        names = sorted(window.terms)
        sums = self._sum(torch.stack([window.terms[name].float() for name in names]))
        losses = {name: float(value) / window.frames for name, value in zip(names, sums, strict=True)}
        norms = [float(norm) for norm in torch.stack(window.norms)]
        elapsed = time.perf_counter() - window.started
        self._refuse_non_finite(window, norms, losses)
        validation, best = None, False
        if self._validates and self._is_due(self._config.validate_every):
            validation = self.validate()
            best = self._compare_with_best(validation["loss"])
        checkpoint = self._save() if best or self._is_due(self._config.checkpoint_every) else None
        frame_s = self._loader.frame_s
        rate = window.frames / elapsed
        return Progress(
            step=self._state.step,
            max_steps=self._config.max_steps,
            epoch=self._state.epoch + self._state.samples / self._loader.utterances,
            losses=losses,
            lr=self._optimizer.param_groups[0]["lr"],
            grad_norm=sum(norms) / len(norms),
            frames_per_s=rate,
            audio_hours_per_hour=rate * frame_s,
            data_wait=window.waited / elapsed,
            padding=1 - window.real / window.padded,
            memory_gib=self._memory_gib(),
            eta_s=(self._config.max_steps - self._state.step) * elapsed / window.steps,
            validation=validation,
            best=best,
            checkpoint=checkpoint,
            finished=self._state.finished,
        )

    def _refuse_non_finite(self, window: _Window, norms: list[float], losses: Mapping[str, float]) -> None:
        limit = self._config.explode_norm or math.inf
        for (number, keys), norm in zip(window.keys, norms, strict=True):
            if math.isfinite(norm) and norm <= limit:
                continue
            self._folder.mkdir(parents=True, exist_ok=True)
            path = self._folder / f"non-finite-step-{number:08d}-rank-{self._rank}.json"
            record = {"step": number, "rank": self._rank, "grad_norm": str(norm), "utterances": keys}
            record["losses"] = {name: str(value) for name, value in losses.items()}
            path.write_text(json.dumps(record, indent=1), encoding="utf-8")
            raise NonFiniteLoss(
                f"step {number}: the gradient's norm is {norm:g} (explode_norm={limit:g}); the utterances of "
                f"that step are in {path}; lower optim.lr, or take those out whose audio is broken"
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
                    sums[name] = sums.get(name, torch.zeros_like(frames)) + value.sum()
                frames += item.batch.frames
            if isinstance(self.system, FSDPModule):
                # Without a backward pass the root module keeps its gathered weights, and the next step would use them.
                self.system.reshard()
        self.system.train()
        names = self.system.terms
        stacked = torch.stack([frames, *(sums.get(name, torch.zeros_like(frames)) for name in names)])
        frames, *values = self._sum(stacked)
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
            # The system itself, not its DDP wrapper: ranks may have different numbers of validation batches.
            terms: dict[str, Tensor] = self.system(
                batch.noisy, batch.clean, batch.lengths, batch.text_ids, item.draws, self._loss
            )
        return terms

    def _compare_with_best(self, loss: float) -> bool:
        """Note a validation's loss in the state; return whether it is the lowest so far."""
        best = loss < self._state.best_loss
        values = vars(self._state) | (
            {"best_step": self._state.step, "best_loss": loss, "bad_validations": 0}
            if best
            else {"bad_validations": self._state.bad_validations + 1}
        )
        if self._config.patience and values["bad_validations"] >= self._config.patience:
            values["finished"] = values["finished"] or "patience"
        self._state = State(**values)
        return best

    def _save(self) -> Path:
        model = get_model_state_dict(self.system, options=_FULL)
        optimizer = get_optimizer_state_dict(self.system, self._optimizer, options=_FULL)
        ema = {name: _full_tensor(value) for name, value in self._ema.shadow.items()}
        path = self._folder
        if self._rank == 0:
            path = save(self._folder, Checkpoint(self._state, model, ema, optimizer))
            prune(self._folder, self._config.keep_last, [self._state.best_step])
        if self._group:
            dist.barrier()
        return path

    def _resume(self) -> None:
        path = latest(self._folder)
        if path is None:
            return
        saved = load(path)
        if not saved.state.belongs_to(self._identity):
            raise CheckpointError(f"{path} is of another run: its configuration, dataset or spec differs")
        # The averaged weights go through the module, which shards them as it shards its own.
        set_model_state_dict(self.system, {**saved.ema}, options=_FULL)
        self._ema.adopt(saved.state.ema_updates)
        set_model_state_dict(self.system, saved.model, options=_FULL)
        set_optimizer_state_dict(self.system, self._optimizer, saved.optimizer, options=_FULL)
        self._state = saved.state
        self.resumed_from = path

    def _sum(self, values: Tensor) -> Tensor:
        if self._group:
            dist.all_reduce(values)
        return values

    def _memory_gib(self) -> float:
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device) / 2**30
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def _full_tensor(value: Tensor) -> Tensor:
    """Return all of a tensor on the CPU, also if it is sharded over the ranks."""
    full = value.full_tensor() if isinstance(value, DTensor) else value
    return full.detach().cpu()
