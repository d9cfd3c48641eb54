"""Writes the checkpoints of a training while its steps go on, each rank its share."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions
from torch.distributed.checkpoint.state_dict_saver import async_save
from torch.distributed.tensor import DTensor

from flowse.files import replace_folder, sync, temporary_beside
from flowse.training.checkpoint import (
    KINDS,
    State,
    cause_of,
    file_facts,
    path_of,
    prune,
    share_name,
    write_state,
)
from flowse.training.ranks import Ranks


class CheckpointWriter:
    """Copies tensors to the CPU's memory, and writes them from there in a thread, one checkpoint at a time.

    A checkpoint is a temporary folder until all ranks have written and hashed their files; rank 0 then writes the
    state, renames the folder, and deletes the checkpoints that are not kept. Whatever ends a process before that leaves
    the checkpoint before as the newest.

    Example:
        >>> writer = CheckpointWriter(folder, keep_last=2, device=torch.device("cpu"), ranks=Ranks())
        >>> path = writer.write(state, {"model.w": weight})
        >>> writer.wait()
    """

    def __init__(self, folder: Path, *, keep_last: int, device: torch.device, ranks: Ranks) -> None:
        """Prepare to write; all ranks have to do this at the same time.

        Args:
            folder: Folder of the training's checkpoints, shared by all ranks.
            keep_last: Checkpoints that stay, besides the best.
            device: Where the tensors are.
            ranks: The ranks that write together.
        """
        self._folder, self._keep_last, self._ranks = folder, keep_last, ranks
        # The thread agrees with the other ranks' threads while the training's own exchanges go on.
        self.group: Any = ranks.another_group()
        warnings.filterwarnings("ignore", "torch.distributed is disabled")  # as it should be where one process writes
        pinned = device.type == "cuda"
        self._stager = DefaultStager(
            StagingOptions(
                use_pinned_memory=pinned, use_shared_memory=False, use_async_staging=False, use_non_blocking_copy=pinned
            )
        )
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending: Future[None] | None = None

    def write(self, state: State, tensors: Mapping[str, Tensor]) -> Path:
        """Begin to write a checkpoint, and return where it will be; all ranks have to call this at the same time.

        Tensors may change as soon as this returns.

        Args:
            state: What it holds besides tensors.
            tensors: Every tensor by name, which begins with one of `KINDS`; sharded ones with this rank's share.

        Raises:
            OSError: The checkpoint before could not be written.
        """
        self.wait()
        final = path_of(self._folder, state.step)
        # The name, and not the path: a rank of another machine looks into the folder that it has.
        temporary = self._folder / self._ranks.first(lambda: self._new_folder(final).name)
        shared = all(self._ranks.gather(temporary.is_dir()))
        written = None
        places = {name: KINDS.index(name.partition(".")[0]) + 1 for name in tensors}
        if shared:
            tensors = self._mine(tensors)
        else:  # machines without a common folder: rank 0 gathers all shares
            tensors = {name: value for name, value in _gathered(tensors) if self._ranks.rank == 0}
        if shared or tensors:
            written = async_save(
                dict(tensors),
                storage_writer=HuggingFaceStorageWriter(str(temporary), places, save_distributed=True),
                process_group=self.group,
                async_stager=self._stager,
                no_dist=self.group is None or not shared,
            )
        self._pending = self._thread.submit(self._finish, written, state, temporary, final)
        return final

    def _mine(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return what this rank copies and writes: its shards, and its part of the tensors that all ranks have."""
        whole = [name for name, value in tensors.items() if not isinstance(value, DTensor)]
        whole.sort(key=lambda name: (-tensors[name].numel(), name))
        others = set(whole) - set(whole[self._ranks.rank :: self._ranks.world_size])
        return {name: value for name, value in tensors.items() if name not in others}

    def wait(self) -> None:
        """Return when the checkpoint whose writing began last is whole.

        Raises:
            OSError: It could not be written; on all ranks alike.
        """
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def _new_folder(self, final: Path) -> Path:
        temporary = temporary_beside(final)
        temporary.mkdir(parents=True)
        return temporary

    def _finish(self, written: Any, state: State, temporary: Path, final: Path) -> None:
        try:
            self._complete(written, state, temporary, final)
        except BaseException:
            if self._ranks.rank == 0:  # what is left of it would fill the disk
                shutil.rmtree(temporary, ignore_errors=True)
            raise

    def _complete(self, written: Any, state: State, temporary: Path, final: Path) -> None:
        """Wait for this rank's files, name and hash them, and publish the checkpoint once all ranks have done so."""
        rank = self._ranks.rank
        try:
            if written is not None:
                written.result()
        except CheckpointException as error:
            raise cause_of(error) from error

        def named_and_hashed() -> dict[str, tuple[int, str]]:
            for number, kind in enumerate(KINDS, start=1):
                for path in temporary.glob(f"shard-{rank + 1:05d}-model-{number:05d}-of-*.safetensors"):
                    path.rename(temporary / share_name(kind, rank))
            return file_facts(temporary, rank)

        files: dict[str, tuple[int, str]] = {}
        for found in self._all(_tried(named_and_hashed)):
            files |= found
        self._all(_tried(lambda: self._publish(state, files, temporary, final) if rank == 0 else None))

    def _all(self, mine: Any) -> list[Any]:
        """Return what all ranks found, or raise the first one's error on all: none waits for one that failed."""
        found = [mine]
        if self.group is not None:
            found = [None] * self._ranks.world_size
            dist.all_gather_object(found, mine, group=self.group)
        for value in found:
            if isinstance(value, OSError):
                raise value
        return found

    def _publish(self, state: State, files: Mapping[str, tuple[int, str]], temporary: Path, final: Path) -> None:
        """Give a checkpoint whose files are all there its state and its name, and delete those that are not kept."""
        write_state(temporary, state, files)
        sync(temporary)
        replace_folder(temporary, final)
        prune(self._folder, self._keep_last, [state.best_step, state.heard_step])


def _gathered(tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Yield all of each tensor, on the processor; all ranks have to take them at the same time."""
    for name, value in tensors.items():
        whole = value.full_tensor() if isinstance(value, DTensor) else value
        yield name, whole.detach().cpu()


def _tried(do: Callable[[], Any]) -> Any:
    """Return what a function returns, or its error, if the disk is to blame."""
    try:
        return do()
    except OSError as error:
        return error
