"""Training checkpoints: written whole, checked when read, and pruned to the last few and the best."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from flowse.files import atomic_folder, remove_temporaries
from flowse.model.spec import ModelSpec
from flowse.training.config import TrainConfig

_NAME = re.compile(r"step-(\d{8})")
_FILES = ("model.safetensors", "ema.safetensors", "optimizer.pt")


class CheckpointError(Exception):
    """A checkpoint cannot be read, or is of another training; the message says which and why."""


@dataclass(frozen=True, kw_only=True)
class State:
    """State of a training besides its tensors.

    Attributes:
        step: Optimiser steps done.
        epoch: Position in the data: epoch.
        samples: Position in the data: utterances of that epoch that are done.
        ema_updates: Updates of the moving average.
        seed: Root of the training's draws; every draw of a step follows from (seed, step, utterance), so there is no
            generator state to keep.
        best_step: Step of the lowest validation loss; -1 if there was none.
        best_loss: Lowest validation loss.
        bad_validations: Validations since `best_step`.
        finished: Why the training ended ("max_steps", "patience"); empty: it has not.
        identity: What is trained (dataset digest, settings, spec); a training resumes only where it is equal.
    """

    step: int
    epoch: int
    samples: int
    ema_updates: int
    seed: int
    best_step: int = -1
    best_loss: float = float("inf")
    bad_validations: int = 0
    finished: str = ""
    identity: Mapping[str, Any] = field(default_factory=dict)

    def belongs_to(self, identity: Mapping[str, Any]) -> bool:
        """Whether a training of this identity may be resumed from here.

        A setting that one of the two lacks, because it is younger than the checkpoint, has its default value.
        """
        defaults = {"spec": ModelSpec().to_dict(), "config": dataclasses.asdict(TrainConfig())}
        mine, other = (
            _fill(json.loads(json.dumps(given)), defaults) for given in (dict(self.identity), dict(identity))
        )
        return mine == other


def _fill(values: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Add the keys that `values` lacks, also within the mappings that it holds; as plain JSON values."""
    filled: dict[str, Any] = json.loads(json.dumps({**defaults, **values}))
    for key, default in defaults.items():
        if isinstance(default, Mapping) and isinstance(filled[key], dict):
            filled[key] = _fill(filled[key], default)
    return filled


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint in memory, on the CPU.

    Attributes:
        state: State besides tensors.
        model: Weights by name.
        ema: Averaged weights by name.
        optimizer: State of the optimiser by parameter name.
    """

    state: State
    model: dict[str, Any]
    ema: dict[str, Tensor]
    optimizer: dict[str, Any]


def path_of(folder: Path, step: int) -> Path:
    """Return the folder of the checkpoint after `step` steps."""
    return folder / f"step-{step:08d}"


def save(folder: Path, checkpoint: Checkpoint) -> Path:
    """Write a checkpoint; it appears whole or not at all, also if the machine dies.

    Args:
        folder: Folder of the training's checkpoints.
        checkpoint: What to write.

    Returns:
        The checkpoint's own folder, `step-<number>`.
    """
    final = path_of(folder, checkpoint.state.step)
    # A checkpoint of this step that is there already was found damaged, or is the same: replacing it loses nothing.
    with atomic_folder(final) as temporary:
        save_file({k: v.contiguous() for k, v in checkpoint.model.items()}, temporary / "model.safetensors")
        save_file({k: v.contiguous() for k, v in checkpoint.ema.items()}, temporary / "ema.safetensors")
        torch.save(checkpoint.optimizer, temporary / "optimizer.pt")
        sizes = {name: (temporary / name).stat().st_size for name in _FILES}
        record = {**vars(checkpoint.state), "identity": dict(checkpoint.state.identity), "bytes": sizes}
        (temporary / "state.json").write_text(json.dumps(record, indent=1), encoding="utf-8")
    return final


def read_state(path: Path) -> State:
    """Read a checkpoint's state and check that its files have their recorded sizes.

    Raises:
        CheckpointError: A file is missing or cut.
    """
    try:
        record = json.loads((path / "state.json").read_text(encoding="utf-8"))
        for name, size in record.pop("bytes").items():
            found = (path / name).stat().st_size
            if found != size:
                raise CheckpointError(f"{path / name} has {found} bytes, its record says {size}")
        return State(**record)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} is not a whole checkpoint: {error}") from error


def load(path: Path) -> Checkpoint:
    """Read a checkpoint.

    Raises:
        CheckpointError: It is not whole.
    """
    state = read_state(path)
    return Checkpoint(
        state,
        load_file(path / "model.safetensors"),
        load_file(path / "ema.safetensors"),
        torch.load(path / "optimizer.pt", map_location="cpu", weights_only=True),
    )


def listed(folder: Path) -> list[Path]:
    """Return the folders of all checkpoints of a training, oldest first, damaged ones included."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if _NAME.fullmatch(path.name))


def latest(folder: Path) -> Path | None:
    """Return the folder of the newest checkpoint that is not damaged; None: there is none."""
    for path in reversed(listed(folder)):
        try:
            read_state(path)
        except CheckpointError:
            continue
        return path
    return None


def prune(folder: Path, keep_last: int, also: Sequence[int] = ()) -> None:
    """Delete unfinished writes, and all checkpoints but the newest `keep_last` and those of the steps `also`.

    Args:
        folder: Folder of the training's checkpoints.
        keep_last: Number of checkpoints; at least 1 is kept.
        also: Steps whose checkpoints are kept besides, e.g. the best.
    """
    spared = {path_of(folder, step) for step in also}
    for path in listed(folder)[: -max(1, keep_last)]:
        if path not in spared:
            shutil.rmtree(path)
    remove_temporaries(folder)
