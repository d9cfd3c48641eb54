"""The result of a finished training: the selected weights, the model's spec, the history, and their files."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.torch import save_file
from torch import Tensor

from flowse.errors import UserError
from flowse.export import filled_system
from flowse.model.spec import ModelSpec
from flowse.model.system import System
from flowse.training.checkpoint import CheckpointError, State, latest, load, path_of, read_state, require_whole
from flowse.training.history import plot_history, read_history, read_notes
from flowse.training.job import Job
from flowse.training.ledger import NOTES, SEGMENTS, write_segments
from flowse.training.listen_config import metric_of
from flowse.training.lora import adapt, merged
from flowse.training.mixtures import DATASET
from flowse.training.progress import Record, waiting
from flowse.training.skipped import NAME as SKIPPED
from flowse.training.skipped import SkipList
from flowse.training.start import initial_system, trained_system


@dataclass(frozen=True)
class Trained:
    """The result of a finished training.

    Attributes:
        job: What was trained.
        state: Where it ended.
        step: Step of the selected weights.
        weights: Folder of the checkpoint whose averaged weights were selected.
        history: Records of the training, oldest first.
        skipped: Utterances and steps that were left out.
        notes: What a person should know, a line each, e.g. that a damaged checkpoint was passed over.
    """

    job: Job
    state: State
    step: int
    weights: Path
    history: list[Record]
    skipped: SkipList = field(default_factory=SkipList)
    notes: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, job: Job) -> Trained:
        """Select the weights of a finished training: the best by loss or by ear, as it is to select them, or the last.

        Raises:
            UserError: The training is not finished.
        """
        last = latest(job.checkpoints)
        state = None if last is None else read_state(last)
        if state is None or not state.finished:
            raise UserError(f"train: the workers ended without a finished checkpoint in {job.checkpoints}; run again")
        step, notes = state.step, list(read_notes(job.folder))
        chosen, why = _chosen(job, state)
        notes += [why] if why else []
        if chosen > 0:
            step = chosen
            try:
                require_whole(path_of(job.checkpoints, step), ["ema"])
            except CheckpointError as error:
                notes.append(f"the chosen weights cannot be used, the last are taken: {error}")
                step = state.step
        weights = path_of(job.checkpoints, step)
        return cls(
            job,
            state,
            step,
            weights,
            list(read_history(job.folder)),
            SkipList.read(job.checkpoints, job.segment.dataset),
            notes,
        )

    @property
    def spec(self) -> ModelSpec:
        """Spec of the trained model."""
        return self.job.spec

    def system(self, device: torch.device | str = "cpu") -> System:
        """Load the trained model.

        Raises:
            ExportError: The weights cannot be read.
        """
        if self.job.config.lora.rank:
            return filled_system(self.spec, self.averaged(), self.weights, device)
        return trained_system(self.spec, self.weights, device)

    def averaged(self) -> dict[str, Tensor]:
        """Read the selected weights; adapters are merged into those of the base.

        Raises:
            CheckpointError: The checkpoint is not whole.
            ExportError: The base cannot be read.
        """
        job, weights = self.job, load(self.weights, ["ema"]).ema
        if not job.config.lora.rank:
            return weights
        base = initial_system(job.spec, job.start)
        adapt(base, job.config.lora)
        return merged({**base.state_dict(), **weights}, job.config.lora)

    def figures(self) -> Record:
        """Return the last loss and rate, the best of each choice, and how long ranks waited, by name.

        The names stand in the folders of the curves (`curve_name`), and no curve has them: a value without a step would
        become a point of the curve.
        """
        figures: Record = {"steps": self.state.step, **waiting(self.history)}
        if self.history:
            last = self.history[-1]
            figures |= {
                "restarts": last["restarts"],
                "train/last_loss": last["train_loss"],
                "training/last_frames_per_s": last["frames_per_s"],
            }
        if self.state.best_step > 0:
            figures |= {"validation/best_loss": self.state.best_loss, "validation/best_step": self.state.best_step}
        if self.state.heard is not None and (metric := metric_of(self.job.config.select)):
            figures |= {f"listen/best_{metric.name}": self.state.heard, "listen/best_step": self.state.heard_step}
        return figures

    def write(self, write: Callable[[str], AbstractContextManager[Path]]) -> None:
        """Write the weights, `spec.json`, `segments.json`, `history.parquet`, `loss.png`, and what else there is.

        That is `dataset.json`, if the shards have one, `skipped.parquet`, if something was left out, and `notes.txt`,
        if there are notes.

        Args:
            write: Gives a temporary path that becomes the file of that name.
        """
        with write("model.safetensors") as path:
            averaged = self.averaged()
            save_file({name: averaged[name] for name in sorted(averaged)}, path)
        with write("spec.json") as path:
            path.write_text(json.dumps(self.spec.to_dict(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        with write(SEGMENTS) as path:
            write_segments(path, self.state.segments)
        if self.skipped.rows:
            with write(SKIPPED) as path:
                shutil.copyfile(self.job.checkpoints / SKIPPED, path)
        if self.notes:
            with write(NOTES) as path:
                path.write_text("".join(f"{note}\n" for note in self.notes), encoding="utf-8")
        if (self.job.shards / DATASET).is_file():
            with write(DATASET) as path:
                shutil.copyfile(self.job.shards / DATASET, path)
        names = list(dict.fromkeys(name for record in self.history for name in record))
        columns = {name: pa.array([record.get(name) for record in self.history], pa.float64()) for name in names}
        with write("history.parquet") as path:
            pq.write_table(pa.table(columns), path)
        with write("loss.png") as path:
            plot_history(self.history, path)


def _chosen(job: Job, state: State) -> tuple[int, str]:
    """Return the step whose weights are to be taken, -1 for the last, and what a person should know of the choice."""
    if job.config.select == "best":
        return state.best_step, ""
    if metric_of(job.config.select) is None:
        return -1, ""
    if state.heard_step <= 0:
        return -1, f"train.select is {job.config.select}, and no weights have that score: the last are taken"
    if job.listening is not None and job.listening.digest != state.heard_by:
        return state.heard_step, "train.listen changed after the training: the weights were chosen by what was before"
    return state.heard_step, ""
