"""The training loop: steps, validation and checkpoints, told to whoever listens as `Progress`."""

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
    """Loss or gradient left the numbers; the message names the file with the step's utterances."""


@dataclass(frozen=True)
class TrainBatch:
    """A batch with its random draws."""

    batch: Batch
    draws: Draws

    @classmethod
    def drawn(cls, batch: Batch, config: DrawConfig) -> TrainBatch:
        """Draw from each utterance's seed."""
        lengths = [int(length) for length in batch.lengths]
        return cls(batch, draw(batch.seeds, lengths, batch.noisy.shape[2], config))

    def to(self, device: torch.device) -> TrainBatch:
        """Copy to a device."""
        return TrainBatch(self.batch.to(device), self.draws.to(device))


@dataclass
class _Window:
    """Sums over the steps since the last `Progress`."""

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
    """One rank of a training run."""

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
        """Prepare a run, at the newest checkpoint of `folder` if there is one.

        In a process group (`torch.distributed`) the group trains together; every rank must be given the same.

        Args:
            system: What to train; frozen parameters stay as they are.
            loader: This rank's steps.
            validation: This rank's share of the validation set; if it is empty on all ranks, nothing is
                validated.
            config: How long, how often.
            optim: Optimiser, schedule, moving average.
            loss: Weights of the terms.
            folder: Of the checkpoints; shared by all ranks.
            seed: Of the dropout in the network.
            identity: What the run is about (dataset digest, configuration, spec).
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
        """Where the run stands."""
        return self._state

    def run(self) -> Iterator[Progress]:
        """Train to the end and yield at every log, validation and checkpoint; a finished run ends at once.

        Raises:
            NonFiniteLoss: Loss or gradient is NaN, infinite or exploding; no checkpoint holds these weights.
        """
        if self._state.finished:
            return
        self.system.train()
        position = Position(self._state.epoch, self._state.samples)
        steps = self._loader.steps(self._state.step, position)
        window = _Window()
        with contextlib.closing(steps):  # type: ignore[type-var]
            while not self._state.finished:
                before = time.perf_counter()
                step = next(steps)
                window.waited += time.perf_counter() - before
                self._train(step, window)
                self._advance(step)
                if self._is_due(self._config.log_every) or self._pauses():
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
        # Dropout is the one draw that depends on the rank: its masks are made inside the network.
        torch.manual_seed(derive_seed(self._seed, "dropout", step.number, self._rank))
        for index, item in enumerate(step.batches):
            last = index == len(step.batches) - 1
            with self._exchange(last):
                terms = self._losses(item.to(self._device))
                # The mean over ranks that follows makes of this the sum over all, divided by all frames.
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

    def _losses(self, item: TrainBatch) -> dict[str, Tensor]:
        batch = item.batch
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._config.precision == "bf16"):
            terms: dict[str, Tensor] = self._module(
                batch.noisy, batch.clean, batch.lengths, batch.text_ids, item.draws, self._loss
            )
        return terms

    def _exchange(self, now: bool) -> contextlib.AbstractContextManager[Any]:
        """Hold the exchange of gradients back until the step's last micro-batch."""
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

    def _pauses(self) -> bool:
        return self._is_due(self._config.validate_every) or self._is_due(self._config.checkpoint_every)

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
            best = self._judge(validation["loss"])
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
                # Without a backward pass the root keeps its gathered weights, and the next step would use
                # them.
                self.system.reshard()
        self.system.train()
        names = self._term_names()
        stacked = torch.stack([frames, *(sums.get(name, torch.zeros_like(frames)) for name in names)])
        frames, *values = self._sum(stacked)
        return {name: float(value / frames) for name, value in zip(names, values, strict=True)}

    def enhance(self, batch: Batch, sampling: Sampling | None = None) -> Tensor:
        """Enhance a batch with averaged weights; under "fsdp" every rank has to call this together.

        Args:
            batch: What to enhance.
            sampling: Solver settings; None: the defaults.

        Returns:
            Log-mel, on the CPU.
        """
        with self._ema.applied():
            log_mel, _ = self.system.enhance(batch.noisy, batch.lengths, batch.text_ids, sampling)
            if isinstance(self.system, FSDPModule):
                self.system.reshard()
        return log_mel.cpu()

    def _eval_losses(self, item: TrainBatch) -> dict[str, Tensor]:
        batch = item.batch
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._config.precision == "bf16"):
            # Not through DDP: ranks may hold different numbers of validation batches.
            terms: dict[str, Tensor] = self.system(
                batch.noisy, batch.clean, batch.lengths, batch.text_ids, item.draws, self._loss
            )
        return terms

    def _term_names(self) -> list[str]:
        if self.system.objective == "regression":
            return ["loss"]
        predictor = ["predictor"] if self.system.predictor is not None else []
        return ["loss", "mel_l1", *predictor, "velocity"]

    def _judge(self, loss: float) -> bool:
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
        ema = {name: _whole(value) for name, value in self._ema.shadow.items()}
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
        # By way of the module, which knows how its weights are sharded.
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


def _whole(value: Tensor) -> Tensor:
    """Return a tensor's full content on the CPU, also if it is sharded."""
    full = value.full_tensor() if isinstance(value, DTensor) else value
    return full.detach().cpu()
