"""The history of a training on disk: a record every few steps, restarts, progress, curves and enhanced examples."""

from __future__ import annotations

import json
import math
import os
import socket
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from flowse.audio.flac import flac_bytes
from flowse.audio.mel_config import MelConfig
from flowse.audio.vocoder import load_vocoder
from flowse.data.batching import Batch
from flowse.files import write_json, write_text
from flowse.pretrained import resolve
from flowse.training.checkpoint import State
from flowse.training.job import Job
from flowse.training.ledger import NOTES
from flowse.training.progress import Progress, Record, curve_name

_HISTORY = "history.jsonl"
_PROGRESS = "progress.json"
_STARTS = "starts.jsonl"


class History:
    """Writes the history of a training into its folder; rank 0 keeps one, whatever happens to the process.

    `history.jsonl` has a record every `log_every` steps and at every validation and checkpoint, each step once;
    `progress.json` the newest of them; `starts.jsonl` a line for every start of rank 0; `notes.txt` what a person
    should know; `tensorboard/` the same figures as event files; `examples/` a folder of spectrograms (and audio) for
    every validation.
    """

    def __init__(self, job: Job, state: State, frames_per_s_at_peak: float | None = None) -> None:
        """Open the history of a training that is resumed at `state`: records of later steps are dropped.

        Args:
            job: The training.
            state: Where it is resumed.
            frames_per_s_at_peak: Rate at the devices' peak, which MFU is measured against; None: unknown.
        """
        self.folder = job.folder
        self._mel, self._vocoder, self._at_peak = job.spec.mel, job.config.vocoder, frames_per_s_at_peak
        self.records = [record for record in read_history(self.folder) if record["step"] <= state.step]
        """All records so far."""
        write_text(self.folder / _HISTORY, "".join(json.dumps(record) + "\n" for record in self.records))
        starts = self.folder / _STARTS
        start = {"time": time.time(), "step": state.step, "host": socket.gethostname(), "pid": os.getpid()}
        with starts.open("a", encoding="utf-8") as file:
            file.write(json.dumps(start) + "\n")
        self._events = _event_files(self.folder / "tensorboard", state.step) if job.config.tensorboard else None
        self.restarts = len(starts.read_bytes().splitlines()) - 1
        """How often rank 0 was started again."""

    def write(self, progress: Progress) -> Record:
        """Append one record to the history, and return it."""
        record: Record = {**progress.record(), "restarts": float(self.restarts)}
        if self._at_peak:
            record["mfu"] = progress.frames_per_s / self._at_peak
        with (self.folder / _HISTORY).open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        self.records.append(record)
        if self._events is not None:
            for name, value in record.items():
                if name != "step" and math.isfinite(value):
                    self._events.add_scalar(curve_name(name), value, int(record["step"]))
        write_progress(self.folder, {**record, "max_steps": progress.max_steps})
        return record

    def close(self) -> None:
        """Write what is still in memory; whoever opened the history calls this at its end."""
        if self._events is not None:
            self._events.close()

    def note(self, line: str) -> None:
        """Write down what a person should know, e.g. that a damaged checkpoint was passed over."""
        with (self.folder / NOTES).open("a", encoding="utf-8") as file:
            file.write(" ".join(line.split()) + "\n")

    def write_examples(self, step: int, batch: Batch, enhanced: Tensor) -> Path:
        """Draw the spectrograms of enhanced examples, write their audio if there is a vocoder; return their folder.

        Args:
            step: Optimiser steps done.
            batch: The examples.
            enhanced: Their enhanced log-mels ``[B, T, F]``.
        """
        folder = self.folder / "examples" / f"step-{step:08d}"
        folder.mkdir(parents=True, exist_ok=True)
        _draw_examples(folder, batch, enhanced, self._mel)
        if self._vocoder:
            _voice_examples(folder, batch, enhanced, self._mel, self._vocoder)
        return folder


def _event_files(folder: Path, step: int) -> Any:
    """Open event files for TensorBoard, in which nothing after `step` counts; None: tensorboardX is not installed."""
    try:
        from tensorboardX import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder), purge_step=step + 1)


def read_history(folder: Path) -> Iterator[Record]:
    """Yield the records of a history, oldest first, up to a line that is none: a killed process did not finish it."""
    path = folder / _HISTORY
    if not path.exists():
        return
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            return
        if not isinstance(record, dict) or not isinstance(record.get("step"), int | float):
            return
        yield record


def read_notes(folder: Path) -> list[str]:
    """Return what a person should know of a training, a line each, oldest first."""
    path = folder / NOTES
    return path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []


def write_progress(folder: Path, figures: Record) -> None:
    """Replace the figures that say how far a training is."""
    write_json(folder / _PROGRESS, figures)


def read_progress(folder: Path) -> Record:
    """Return the figures that say how far a training is; none before the first record, or if the disk lost them."""
    try:
        figures = json.loads((folder / _PROGRESS).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return figures if isinstance(figures, dict) else {}


def forget_progress(folder: Path) -> None:
    """Delete the figures of an earlier process."""
    (folder / _PROGRESS).unlink(missing_ok=True)


def plot_history(history: Sequence[Record], path: Path) -> None:
    """Draw the loss curves of a history's records to a PNG file."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    for name, label in (("train_loss", "training"), ("validation_loss", "validation (averaged weights)")):
        points = [(record["step"], record[name]) for record in history if name in record]
        if points:
            axes.plot(*zip(*points, strict=True), label=label, marker="." if len(points) < 40 else "")
    axes.set_xlabel("step")
    axes.set_ylabel("loss a frame")
    axes.set_yscale("log")
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=100, format="png")


def _file_name(key: str, suffix: str) -> str:
    return f"{key.replace('/', '_')}{suffix}"


def _draw_examples(folder: Path, batch: Batch, enhanced: Tensor, mel: MelConfig) -> None:
    from matplotlib.figure import Figure

    log_mels = {"noisy": batch.noisy, "enhanced": enhanced.cpu(), "clean": batch.clean}
    for index, (key, length) in enumerate(zip(batch.keys, batch.lengths.tolist(), strict=True)):
        figure = Figure(figsize=(9, 7), layout="constrained")
        for axes, (title, log_mel) in zip(figure.subplots(len(log_mels), sharex=True), log_mels.items(), strict=True):
            axes.imshow(log_mel[index, :length].T.numpy(), origin="lower", aspect="auto", vmin=mel.log_floor, vmax=2)
            axes.set_ylabel(f"{title}: mel bin")
        axes.set_xlabel("frame")
        figure.savefig(folder / _file_name(key, ".png"), dpi=80)


def _voice_examples(folder: Path, batch: Batch, enhanced: Tensor, mel: MelConfig, vocoder: str) -> None:
    decoder = load_vocoder(resolve(vocoder), "cpu")
    for index, (key, length) in enumerate(zip(batch.keys, batch.lengths.tolist(), strict=True)):
        waveform = decoder.decode(enhanced[index : index + 1, :length].cpu())[0]
        data = flac_bytes(waveform.clamp(-1, 1).numpy(), mel.sample_rate)
        (folder / _file_name(key, ".flac")).write_bytes(data)
