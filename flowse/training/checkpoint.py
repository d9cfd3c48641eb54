"""Training checkpoints on disk: their files and hashes, what is checked when they are read, and which of them stay.

A checkpoint is a folder `step-<number>` of safetensors files, one for each rank and kind of tensor, each with a rank's
share; torch.distributed.checkpoint reads them at any number of ranks, whether weights are sharded or not. `state.json`
holds the rest, and the files' hashes.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
from torch.distributed.checkpoint.state_dict_loader import load as load_shares

from flowse.files import atomic_folder, remove_temporaries, sha256_file, sync
from flowse.json_records import to_json
from flowse.training.ledger import Segment, segments_from

_NAME = re.compile(r"step-(\d{8})")
KINDS = ("model", "ema", "optimizer")
"""What the names of a checkpoint's tensors, and of its files, begin with: weights, averaged weights, optimiser."""
_FILES = ("model.safetensors", "ema.safetensors", "optimizer.pt")
"""Files of checkpoints that were written before each rank wrote its share."""
STATE = "state.json"
"""Name of the file with what a checkpoint holds besides tensors."""


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
    """A whole checkpoint in memory, on the CPU.

    Attributes:
        state: State besides tensors.
        tensors: Weights (`model.<parameter>`), averaged weights (`ema.<parameter>`) and the optimiser's state
            (`optimizer.<parameter>.<name>`).
    """

    state: State
    tensors: dict[str, Tensor]

    def of(self, kind: str) -> dict[str, Tensor]:
        """Return the tensors of a kind, named without it."""
        return {name.removeprefix(f"{kind}."): value for name, value in self.tensors.items() if _is_of(kind, name)}

    @property
    def model(self) -> dict[str, Tensor]:
        """Weights by name."""
        return self.of("model")

    @property
    def ema(self) -> dict[str, Tensor]:
        """Averaged weights by name."""
        return self.of("ema")


def _is_of(kind: str, name: str) -> bool:
    return name.startswith(f"{kind}.")


def path_of(folder: Path, step: int) -> Path:
    """Return the folder of the checkpoint after `step` steps."""
    return folder / f"step-{step:08d}"


def save(folder: Path, checkpoint: Checkpoint) -> Path:
    """Write a checkpoint that this process holds; it appears whole or not at all, also if the machine dies.

    Args:
        folder: Folder of the training's checkpoints.
        checkpoint: What to write.

    Returns:
        The checkpoint's own folder, `step-<number>`.
    """
    final = path_of(folder, checkpoint.state.step)
    # A checkpoint of this step that is there already was found damaged, or is the same: replacing it loses nothing.
    with atomic_folder(final) as temporary:
        for kind in KINDS:
            mine = {name: value.contiguous() for name, value in checkpoint.tensors.items() if _is_of(kind, name)}
            save_file(mine, temporary / share_name(kind, 0))
        write_state(temporary, checkpoint.state, file_facts(temporary, 0))
    return final


def share_name(kind: str, rank: int) -> str:
    """Return the name of the file with a rank's share of a kind of tensor."""
    return f"{kind}-{rank:05d}.safetensors"


def file_facts(folder: Path, rank: int) -> dict[str, tuple[int, str]]:
    """Return length in bytes and SHA-256 of a rank's files in a checkpoint's folder, by name."""
    paths = (folder / share_name(kind, rank) for kind in KINDS)
    return {path.name: (path.stat().st_size, sha256_file(path)) for path in paths if path.exists()}


def write_state(folder: Path, state: State, files: Mapping[str, tuple[int, str]]) -> None:
    """Write what a checkpoint holds besides tensors, with what `file_facts` found."""
    record = {
        **vars(state),
        "identity": dict(state.identity),
        "segments": to_json(state.segments),
        "bytes": {name: size for name, (size, _) in files.items()},
        "sha256": {name: digest for name, (_, digest) in files.items()},
    }
    record["record_sha256"] = _record_digest(record)
    (folder / STATE).write_text(json.dumps(record, indent=1), encoding="utf-8")
    sync(folder / STATE)


def _record_digest(record: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def _read(path: Path) -> tuple[State, dict[str, str]]:
    """Read a checkpoint's state and the hashes of its files, whose sizes are compared."""
    try:
        record = json.loads((path / STATE).read_text(encoding="utf-8"))
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
        state = State(**record)
        if path_of(path.parent, state.step).name != path.name and _NAME.fullmatch(path.name):
            raise CheckpointError(f"{path} holds step {state.step}: its name is another's")
        return state, hashes
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{path} is not a whole checkpoint: {error}") from error


def read_state(path: Path) -> State:
    """Read a checkpoint's state and check that its files have their recorded sizes.

    Raises:
        CheckpointError: A file is missing or cut, or the state is not what was written.
    """
    return _read(path)[0]


def require_whole(path: Path, kinds: Sequence[str] = KINDS) -> None:
    """Compare the files of a checkpoint that hold some kinds of tensor with their recorded hashes.

    Raises:
        CheckpointError: A file is not what was written.
    """
    _, hashes = _read(path)
    for name, digest in hashes.items():
        if name.startswith(tuple(kinds)) and sha256_file(path / name) != digest:
            raise CheckpointError(f"{path / name} differs from its recorded hash: the disk changed it")


def load(path: Path, kinds: Sequence[str] = KINDS) -> Checkpoint:
    """Read a checkpoint into this process' memory, after a comparison of all bytes with their hashes.

    Args:
        path: Folder of the checkpoint.
        kinds: Which tensors to read.

    Raises:
        CheckpointError: It is not whole.
    """
    require_whole(path, kinds)
    state = read_state(path)
    if is_old(path):
        return Checkpoint(state, _read_old(path, kinds))
    tensors = {
        name: torch.empty(facts.size, dtype=facts.properties.dtype)
        for name, facts in tensor_facts(path).items()
        if name.startswith(tuple(f"{kind}." for kind in kinds))
    }
    fill(path, tensors)
    return Checkpoint(state, tensors)


def tensor_facts(path: Path) -> Mapping[str, Any]:
    """Return shape and type (`TensorStorageMetadata`) of every tensor of a checkpoint, by name.

    Raises:
        CheckpointError: A file cannot be read.
    """
    try:
        facts: Mapping[str, Any] = HuggingFaceStorageReader(str(path)).read_metadata().state_dict_metadata
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    return facts


def fill(path: Path, tensors: Mapping[str, Tensor], group: Any = None) -> None:
    """Read tensors of a checkpoint into their places: of a sharded one, this rank's share alone.

    Args:
        path: Folder of the checkpoint.
        tensors: Tensors to fill, by name.
        group: Process group whose ranks all do this at the same time; None: this process alone.

    Raises:
        CheckpointError: A tensor is missing or has another shape, or a file cannot be read; on all ranks alike.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled")  # as asked
        try:
            load_shares(
                dict(tensors),
                storage_reader=HuggingFaceStorageReader(str(path)),
                process_group=group,
                no_dist=group is None,
            )
        except CheckpointException as error:
            raise CheckpointError(f"{path} cannot be read: {cause_of(error)}") from error


def cause_of(error: CheckpointException) -> BaseException:
    """Return what went wrong on the first rank where something did."""
    cause: BaseException = next(iter(error.failures.values()))[0]
    return cause


def is_old(path: Path) -> bool:
    """Whether a checkpoint was written before each rank wrote its share."""
    return (path / _FILES[-1]).exists()


def renew(path: Path) -> None:
    """Write an old checkpoint in today's form, in its place.

    Raises:
        CheckpointError: It is not whole.
    """
    save(path.parent, load(path))


def _read_old(path: Path, kinds: Sequence[str]) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    try:
        for kind in ("model", "ema"):
            if kind in kinds:
                found = load_file(path / f"{kind}.safetensors")
                tensors |= {f"{kind}.{name}": value for name, value in found.items()}
        if "optimizer" in kinds:
            optimizer = torch.load(path / "optimizer.pt", map_location="cpu", weights_only=True)
            for name, values in optimizer["state"].items():
                tensors |= {f"optimizer.{name}.{what}": torch.as_tensor(value) for what, value in values.items()}
    except (SafetensorError, OSError, RuntimeError, ValueError, EOFError, KeyError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    return tensors


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
    """Delete all checkpoints but the newest `keep_last` and those of the steps `also`.

    Args:
        folder: Folder of the training's checkpoints.
        keep_last: Number of checkpoints; at least 1 is kept.
        also: Steps whose checkpoints are kept besides, e.g. the best.
    """
    spared = {path_of(folder, step) for step in also}
    for path in listed(folder)[: -max(1, keep_last)]:
        if path in spared:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def sweep(folder: Path) -> None:
    """Delete what killed processes left unfinished; no other process may be writing here."""
    if folder.is_dir():
        remove_temporaries(folder)
