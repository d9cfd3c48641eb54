"""Reads a checkpoint into the tensors of all ranks: each its share, or from rank 0 where it alone sees the files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

from flowse.files import sha256_file
from flowse.training.checkpoint import STATE, CheckpointError, fill, load, tensor_facts
from flowse.training.ranks import Ranks


class CheckpointReader:
    """A checkpoint that all ranks are to read; they have to do everything here at the same time."""

    def __init__(self, path: Path, ranks: Ranks, group: Any) -> None:
        """Find out whether all ranks see the checkpoint that rank 0 has chosen.

        Args:
            path: Folder of the checkpoint.
            ranks: The ranks that read together.
            group: Group of the ranks that exchanges tensors between processors; None: this process is alone.

        Raises:
            CheckpointError: Rank 0 cannot read it.
        """
        self._path, self._ranks, self._group = path, ranks, group
        digest = ranks.first(lambda: sha256_file(path / STATE))
        self._shared = all(ranks.gather(_is_there(path, digest)))
        self.names: list[str] = ranks.first(lambda: sorted(tensor_facts(path)))
        """Names of all its tensors."""

    def fill(self, tensors: Mapping[str, Tensor]) -> None:
        """Read tensors into their places: of a sharded one, this rank's share alone.

        Raises:
            CheckpointError: A tensor is missing or has another shape, or a file cannot be read; on all ranks alike.
        """
        if self._shared:
            fill(self._path, tensors, self._group)
            return
        whole = load(self._path).tensors if self._ranks.rank == 0 else {}
        for name, place in tensors.items():
            wanted = place.shape
            found = self._ranks.first(lambda name=name: tuple(whole[name].shape) if name in whole else None)  # type: ignore[misc]
            if found != tuple(wanted):
                raise CheckpointError(f"{self._path}: {name} has shape {found}, not {tuple(wanted)}")
            value = whole[name] if whole else torch.empty(wanted, dtype=place.dtype)
            dist.broadcast(value, src=0, group=self._group)
            _put(place.detach(), value)


def _is_there(path: Path, digest: str) -> bool:
    try:
        return sha256_file(path / STATE) == digest
    except OSError:
        return False


@torch.no_grad()
def _put(place: Tensor, value: Tensor) -> None:
    if isinstance(place, DTensor):
        value = value.to(place.device)
        place.copy_(distribute_tensor(value, place.device_mesh, place.placements, src_data_rank=None))
    else:
        place.copy_(value)
