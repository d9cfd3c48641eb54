"""What a training tells while it runs: its history on disk, curves and examples in MLflow, a line for who watches."""

from __future__ import annotations

import json
import math
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from flowse.audio.mel_config import MelConfig
from flowse.data.batching import Batch
from flowse.files import write_json, write_text
from flowse.pretrained import resolve
from flowse.training.checkpoint import State
from flowse.training.loop import Progress
from pipelines.engine.console import duration


@dataclass(frozen=True)
class Desk:
    """Where a training's record is kept.

    Attributes:
        state: Folder of history, progress and examples.
        tracking_uri: MLflow.
        run_id: The stage's MLflow run; empty: not tracked.
        mel: Of the examples.
        vocoder: Model that makes them heard; empty: they are only drawn.
    """

    state: Path
    tracking_uri: str
    run_id: str
    mel: MelConfig
    vocoder: str


_STAGE = "train"


class Scribe:
    """Rank 0's pen: the history on disk, the curves in MLflow, each step once whatever happens."""

    def __init__(
        self, desk: Desk, state: State, resumed_from: Path | None, frames_per_s_at_peak: float | None = None
    ) -> None:
        """Open the history where the training goes on.

        Args:
            desk: Where to write.
            state: Where the training stands.
            resumed_from: Checkpoint that it goes on from.
            frames_per_s_at_peak: What MFU is measured against; None: it is not known.
        """
        self._desk, self._at_peak = desk, frames_per_s_at_peak
        self._history = desk.state / "history.jsonl"
        self._pending: list[Mapping[str, float]] = []
        kept = [record for record in read_history(desk.state) if record["step"] <= state.step]
        write_text(self._history, "".join(json.dumps(record) + "\n" for record in kept))
        starts = desk.state / "starts.jsonl"
        with starts.open("a", encoding="utf-8") as file:
            file.write(
                json.dumps({"time": time.time(), "step": state.step, "host": socket.gethostname(), "pid": os.getpid()})
                + "\n"
            )
        self._restarts = len(starts.read_text(encoding="utf-8").splitlines()) - 1
        self._client: Any = None
        if desk.run_id:
            os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
            os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
            import mlflow

            self._client = mlflow.MlflowClient(tracking_uri=desk.tracking_uri)
            where = "the beginning" if resumed_from is None else resumed_from.name
            self._tags({"restarts": str(self._restarts), "started_from": where})
            # What MLflow has decides: a rerun's new MLflow run gets the whole curve, a restarted worker's the rest.
            self._steps = self._known_steps()
            self._log(kept)

    def write(self, progress: Progress) -> None:
        """Write one record down."""
        record = _record(progress, self._restarts)
        if self._at_peak:
            record["mfu"] = progress.frames_per_s / self._at_peak
        with self._history.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        write_json(self._desk.state / "progress.json", {**record, "max_steps": progress.max_steps})
        self._log([record])

    def show(self, step: int, batch: Batch, enhanced: torch.Tensor) -> None:
        """Draw (and, with a vocoder, voice) the enhanced examples and put them into MLflow."""
        folder = self._desk.state / "examples" / f"step-{step:08d}"
        folder.mkdir(parents=True, exist_ok=True)
        draw_examples(folder, batch, enhanced, self._desk)
        if self._client is not None:
            from mlflow.exceptions import MlflowException

            try:
                self._client.log_artifacts(self._desk.run_id, str(folder), f"examples/step-{step:08d}")
            except MlflowException as error:
                print(f"train: examples of step {step} are only in {folder}: {error}")

    def _log(self, records: Sequence[Mapping[str, float]]) -> None:
        if self._client is None:
            return
        from mlflow.entities import Metric
        from mlflow.exceptions import MlflowException

        self._pending += [record for record in records if record["step"] not in self._steps]
        now = int(time.time() * 1000)
        try:
            while self._pending:
                # A record goes out whole: the next worker tells by one of its metrics that all are there.
                some = self._pending[:40]
                metrics = [
                    Metric(name, value, now, int(record["step"]))
                    for record in some
                    for name, value in record.items()
                    if name != "step" and math.isfinite(value)
                ]
                self._client.log_batch(self._desk.run_id, metrics=metrics)
                self._steps.update(int(record["step"]) for record in some)
                del self._pending[:40]
        except MlflowException as error:
            # Training goes on without MLflow; what it did not take goes out with the next record.
            print(f"train: MLflow did not take step {self._pending[-1]['step']}: {error}")

    def _known_steps(self) -> set[int]:
        from mlflow.exceptions import MlflowException

        try:
            return {metric.step for metric in self._client.get_metric_history(self._desk.run_id, "train_loss")}
        except MlflowException as error:
            print(f"train: MLflow does not say what it has, so nothing before this is logged again: {error}")
            return {int(record["step"]) for record in read_history(self._desk.state)}

    def _tags(self, values: Mapping[str, str]) -> None:
        from mlflow.exceptions import MlflowException

        try:
            for key, value in values.items():
                self._client.set_tag(self._desk.run_id, key, value)
        except MlflowException as error:
            print(f"train: MLflow did not take the tags {values}: {error}")


def _record(progress: Progress, restarts: int) -> dict[str, float]:
    """Flatten a progress to numbers by name."""
    plain = {
        name: float(getattr(progress, name))
        for name in (
            "epoch",
            "lr",
            "grad_norm",
            "frames_per_s",
            "audio_hours_per_hour",
            "data_wait",
            "padding",
            "memory_gib",
            "eta_s",
        )
    }
    plain |= {f"train_{name}": value for name, value in progress.losses.items()}
    plain |= {f"validation_{name}": value for name, value in (progress.validation or {}).items()}
    return {"step": progress.step, **plain, "restarts": float(restarts)}


def draw_examples(folder: Path, batch: Batch, enhanced: torch.Tensor, desk: Desk) -> None:
    """Write a spectrogram of every example, and with a vocoder its sound."""
    from matplotlib.figure import Figure

    mels = {"noisy": batch.noisy, "enhanced": enhanced.cpu(), "clean": batch.clean}
    for index, (key, length) in enumerate(zip(batch.keys, batch.lengths.tolist(), strict=True)):
        name = key.replace("/", "_")
        figure = Figure(figsize=(9, 7), layout="constrained")
        for axes, (title, mel) in zip(figure.subplots(len(mels), sharex=True), mels.items(), strict=True):
            axes.imshow(mel[index, :length].T, origin="lower", aspect="auto", vmin=desk.mel.log_floor, vmax=2)
            axes.set_ylabel(f"{title}: mel bin")
        axes.set_xlabel("frame")
        figure.savefig(folder / f"{name}.png", dpi=80)
    if desk.vocoder:
        from flowse.audio.vocoder import load_vocoder
        from flowse.audio.waveform import flac_bytes

        vocoder = load_vocoder(resolve(desk.vocoder), "cpu")
        for index, (key, length) in enumerate(zip(batch.keys, batch.lengths.tolist(), strict=True)):
            audio = vocoder.decode(mels["enhanced"][index : index + 1, :length])[0]
            data = flac_bytes(audio.clamp(-1, 1).numpy(), desk.mel.sample_rate)
            (folder / f"{key.replace('/', '_')}.flac").write_bytes(data)


@contextmanager
def told(state: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Tell the people who watch how far rank 0 is, every ten seconds, while the block runs."""
    ended = threading.Event()

    def tell() -> None:
        shown, last = "", -math.inf
        while not ended.wait(1.0):
            now = read_json(state / "progress.json")
            if not now or progress_line(now) == shown or time.monotonic() - last < 10.0:
                continue
            shown, last = progress_line(now), time.monotonic()
            say(shown)

    (state / "progress.json").unlink(missing_ok=True)
    thread = threading.Thread(target=tell, name="train progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        final = read_json(state / "progress.json")
        if final:
            say(progress_line(final))


def progress_line(now: Mapping[str, float]) -> str:
    """Say in one line where training stands, or the computing of log-mels before it."""
    if "cached" in now:
        left = duration(now["seconds"] / now["cached"] * (now["shards"] - now["cached"]))
        return f"{_STAGE:<16} log-mels of {now['cached']:.0f}/{now['shards']:.0f} shards computed  {left} left"
    validation = f"  validation {now['validation_loss']:.4f}" if "validation_loss" in now else ""
    mfu = f", MFU {now['mfu']:.0%}" if "mfu" in now else ""
    return (
        f"{_STAGE:<16} {now['step']:.0f}/{now['max_steps']:.0f} steps  loss {now['train_loss']:.4f}{validation}  "
        f"{now['frames_per_s']:,.0f} frames/s ({now['audio_hours_per_hour']:,.0f}× real time{mfu})  "
        f"{duration(now['eta_s'])} left"
    )


def plot_history(history: Sequence[Mapping[str, float]], path: Path) -> None:
    """Draw the loss curves to a PNG."""
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


def read_history(state: Path) -> Iterator[dict[str, float]]:
    """Yield the records of the history; a line that a kill cut off ends it."""
    path = state / "history.jsonl"
    if not path.exists():
        return
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            yield json.loads(line)
        except ValueError:
            return


def read_json(path: Path) -> dict[str, Any]:
    """Read a file of numbers by name; empty if there is none."""
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    return content
