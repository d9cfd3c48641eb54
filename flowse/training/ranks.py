"""The ranks of a training and what they agree on: rank 0 decides, and all ranks do the same or fail together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

Value = TypeVar("Value")


class Ranks:
    """This process among the processes that train together; alone, if `torch.distributed` has no group.

    What is agreed on here travels between the processors' memories, also where gradients travel between GPUs: a
    decision does not wait for kernels, and no GPU memory is needed for it.

    Example:
        >>> ranks = Ranks()
        >>> checkpoint = ranks.first(lambda: newest(folder))
    """

    def __init__(self, timeout_s: float = 1800.0) -> None:
        """Join the process group, if there is one; all its ranks have to do this at the same time.

        Args:
            timeout_s: Longest wait of a rank for the others in one exchange between processors.
        """
        self._timeout = timedelta(seconds=timeout_s)
        self.grouped = dist.is_available() and dist.is_initialized()
        self.rank = dist.get_rank() if self.grouped else 0
        self.world_size = dist.get_world_size() if self.grouped else 1
        self._group: Any = None
        if self.grouped and "gloo" not in str(dist.get_backend()):
            self._group = dist.new_group(backend="gloo", timeout=self._timeout)

    def another_group(self) -> Any:
        """Return a further group of all ranks for what a thread agrees on, between processors; None: this is alone."""
        return dist.new_group(backend="gloo", timeout=self._timeout) if self.world_size > 1 else None

    def first(self, decide: Callable[[], Value]) -> Value:
        """Call a function on rank 0 alone; return its result, or raise its exception, on every rank."""
        if self.world_size == 1:
            return decide()
        sent: list[Any] = [None, None]
        if self.rank == 0:
            try:
                sent[0] = decide()
            except Exception as error:  # noqa: BLE001 - it is raised below, on every rank
                sent[1] = error
        dist.broadcast_object_list(sent, src=0, group=self._group)
        if sent[1] is not None:
            raise sent[1]
        value: Value = sent[0]
        return value

    def totals(self, values: Sequence[float | int | bool]) -> list[float]:
        """Add up numbers over all ranks, each by itself."""
        if self.world_size == 1:
            return [float(value) for value in values]
        summed = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(summed, group=self._group)
        totals: list[float] = summed.tolist()
        return totals

    def gather(self, value: Value) -> list[Value]:
        """Return the values of all ranks, in their order, on every rank."""
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value, group=self._group)
        return values

    def sum_on_device(self, values: Tensor) -> Tensor:
        """Add up a tensor over all ranks, in place, where it is."""
        if self.world_size > 1:
            dist.all_reduce(values)
        return values

    def wait(self) -> None:
        """Return when all ranks have called this."""
        if self.world_size > 1:
            dist.barrier(group=self._group)
