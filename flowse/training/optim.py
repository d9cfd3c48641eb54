"""Optimisation: AdamW with and without weight decay, the learning rate schedule, moving average, freezing."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from flowse.training.config import OptimConfig


def learning_rate(step: int, max_steps: int, config: OptimConfig, *, from_step: int = 0, from_lr: float = 0.0) -> float:
    """Return the learning rate of step `step` (from 0): it rises linearly to its peak, then follows the schedule.

    A later segment of a run follows the schedule as if the whole run had been planned so, once it has gone there from
    the rate that the run had: linearly, in the warm-up's number of steps. A sudden rise would undo what was learned.

    Args:
        step: Number of the step.
        max_steps: Steps of the whole run.
        config: Peak, warm-up and schedule.
        from_step: First step of the segment.
        from_lr: Learning rate of the step before it.
    """
    planned = _planned_rate(step, max_steps, config)
    if not from_step or not config.warmup_steps:
        return planned
    share = min(1.0, (step - from_step + 1) / config.warmup_steps)
    return from_lr + share * (planned - from_lr)


def _planned_rate(step: int, max_steps: int, config: OptimConfig) -> float:
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return config.lr
    left = max(1, max_steps - 1 - config.warmup_steps)
    progress = min(1.0, (step - config.warmup_steps) / left)
    fall = 1 - progress if config.schedule == "linear" else (1 + math.cos(math.pi * progress)) / 2
    return config.lr * (config.final_fraction + (1 - config.final_fraction) * fall)


def freeze(module: nn.Module, patterns: Sequence[str]) -> int:
    """Stop training the parameters whose names match a shell-style pattern, e.g. ``network.blocks.[0-2].*``.

    Returns:
        Number of frozen parameters, counted as scalars.

    Raises:
        ValueError: A pattern matches no name, or nothing is left to train.
    """
    parameters = dict(module.named_parameters())
    frozen = 0
    for pattern in patterns:
        matched = [name for name in parameters if fnmatchcase(name, pattern)]
        if not matched:
            raise ValueError(f"freeze: {pattern!r} matches no parameter; names are like {next(iter(parameters))!r}")
        for name in matched:
            frozen += parameters[name].numel() if parameters[name].requires_grad else 0
            parameters[name].requires_grad_(False)
    if not any(parameter.requires_grad for parameter in parameters.values()):
        raise ValueError("freeze: the patterns leave nothing to train")
    return frozen


def adamw(module: nn.Module, config: OptimConfig) -> torch.optim.AdamW:
    """Build AdamW over the parameters that are trained, with weight decay on matrices and convolutions alone."""
    embeddings = {id(part.weight) for part in module.modules() if isinstance(part, nn.Embedding)}
    decay: list[Tensor] = []
    plain: list[Tensor] = []
    for parameter in module.parameters():
        if parameter.requires_grad:
            (decay if parameter.ndim > 1 and id(parameter) not in embeddings else plain).append(parameter)
    groups = [
        {"params": parameters, "weight_decay": weight_decay}
        for parameters, weight_decay in ((decay, config.weight_decay), (plain, 0.0))
        if parameters
    ]
    return torch.optim.AdamW(groups, lr=config.lr, betas=(config.beta_1, config.beta_2), fused=True)


class MovingAverage:
    """Exponential moving average of the weights.

    The decay rate after ``n`` updates is ``min(decay, (1 + n) / (10 + n))``. A low rate in the beginning forgets the
    random initial weights: at a fixed 0.999 they would still be a third of the average after a thousand steps.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        """Start from the module's weights.

        Args:
            module: The module whose weights are averaged.
            decay: Decay rate in the long run.
        """
        self.decay = decay
        self.updates = 0
        self._weights = dict(module.named_parameters())
        self.shadow = {name: weight.detach().clone() for name, weight in self._weights.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Average in the present weights of the module."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        torch._foreach_lerp_(_local(self.shadow.values()), _local(self._weights.values()), 1 - decay)
        self.updates += 1

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Put the averaged weights into the module while the block runs."""
        weights = _local(self._weights.values())
        kept = [weight.clone() for weight in weights]
        torch._foreach_copy_(weights, _local(self.shadow.values()))
        try:
            yield
        finally:
            torch._foreach_copy_(weights, kept)


def _local(tensors: Iterable[Tensor]) -> list[Tensor]:
    """Return the part of each tensor that this rank holds: all of it, or its shard."""
    local = []
    for tensor in tensors:
        held: Tensor = tensor.to_local() if isinstance(tensor, DTensor) else tensor
        local.append(held.detach())
    return local
