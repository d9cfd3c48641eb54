"""Training checkpoints: written whole, hashed, checked when read, and pruned to the last few and the best."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from flowse.files import atomic_folder, remove_temporaries, sha256_file
from flowse.json_records import to_json
from flowse.training.ledger import Segment, segments_from

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
        heard_step: Step whose weights were the best by ear; -1 if there was none.
        heard: Their value of the metric that chooses; None if there was none.
        heard_by: Digest of how, and by which recordings, they were judged.
        finished: Why the training ended ("max_steps", "patience"); empty: it has not.
        identity: What checkpoints cannot change (network, mel, flow, vocabulary); a training resumes only where it is
            equal.
        segments: Segments of the run, the last one as far as it is.
        divisible_by: What the numbers of utterances of full steps are multiples of; see `StepPlan`.
        lr: Learning rate of the last step.
    """

    step: int
    epoch: int
    samples: int
    ema_updates: int
    seed: int
    best_step: int = -1
    best_loss: float = float("inf")
    bad_validations: int = 0
    heard_step: int = -1
    heard: float | None = None
    heard_by: str = ""
    finished: str = ""
    identity: Mapping[str, Any] = field(default_factory=dict)
    segments: tuple[Segment, ...] = ()
    divisible_by: int = 1
    lr: float = 0.0

    def belongs_to(self, identity: Mapping[str, Any]) -> bool:
        """Whether a training of this identity may be resumed from here."""
        mine, other = (json.loads(json.dumps(given)) for given in (dict(self.identity), dict(identity)))
        return bool(mine == other)


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
        state = {
            **vars(checkpoint.state),
            "identity": dict(checkpoint.state.identity),
            "segments": to_json(checkpoint.state.segments),
        }
        sizes = {name: (temporary / name).stat().st_size for name in _FILES}
        hashes = {name: sha256_file(temporary / name) for name in _FILES}
        record = {**state, "bytes": sizes, "sha256": hashes}
        record["record_sha256"] = _record_digest(record)
        (temporary / "state.json").write_text(json.dumps(record, indent=1), encoding="utf-8")
    return final


def _record_digest(record: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def _read(path: Path) -> tuple[State, dict[str, str]]:
    """Read a checkpoint's state and the hashes of its files, whose sizes are compared."""
    try:
        record = json.loads((path / "state.json").read_text(encoding="utf-8"))
        # Checkpoints of before had no hashes.
        digest, hashes = record.pop("record_sha256", None), dict(record.get("sha256", {}))
        if digest is not None and digest != _record_digest(record):
            raise CheckpointError(f"{path / 'state.json'} differs from its sum")
        record.pop("sha256", None)
        for name, size in record.pop("bytes").items():
            found = (path / name).stat().st_size
            if found != size:
                raise CheckpointError(f"{path / name} has {found} bytes, its record says {size}")
        record["segments"] = segments_from(record.get("segments", []))
        return State(**record), hashes
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{path} is not a whole checkpoint: {error}") from error


def read_state(path: Path) -> State:
    """Read a checkpoint's state and check that its files have their recorded sizes.

    Raises:
        CheckpointError: A file is missing or cut, or the state is not what was written.
    """
    return _read(path)[0]


def require_whole(path: Path, names: Sequence[str] = _FILES) -> None:
    """Compare files of a checkpoint with their recorded hashes.

    Raises:
        CheckpointError: A file is not what was written.
    """
    _, hashes = _read(path)
    for name in names:
        if name in hashes and sha256_file(path / name) != hashes[name]:
            raise CheckpointError(f"{path / name} differs from its recorded hash: the disk changed it")


def load(path: Path) -> Checkpoint:
    """Read a checkpoint, after a comparison of all its bytes with their hashes.

    Raises:
        CheckpointError: It is not whole.
    """
    require_whole(path)
    try:
        return Checkpoint(
            read_state(path),
            load_file(path / "model.safetensors"),
            load_file(path / "ema.safetensors"),
            torch.load(path / "optimizer.pt", map_location="cpu", weights_only=True),
        )
    except (SafetensorError, OSError, RuntimeError, ValueError, EOFError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error


def newest_whole(folder: Path) -> tuple[Path | None, list[str]]:
    """Find the newest checkpoint all of whose bytes are as they were written.

    Returns:
        The checkpoint's folder, None if there is none; and a line for each newer one: what is wrong with it.
    """
    findings = []
    for path in reversed(listed(folder)):
        try:
            require_whole(path)
        except CheckpointError as error:
            findings.append(str(error))
            continue
        return path, findings
    return None, findings


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
