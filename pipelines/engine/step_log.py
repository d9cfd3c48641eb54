"""What people see of a training while it runs: curves and examples in MLflow, and a line now and then."""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flowse.training.history import History, forget_progress, read_notes, read_progress
from flowse.training.progress import Progress, Record, progress_line
from pipelines.engine.console import duration

if TYPE_CHECKING:
    from torch import Tensor

    from flowse.data.batching import Batch
    from flowse.training.rank import Rank

_RECORDS_PER_CALL = 40
_POLL_S = 1.0
_PAUSE_S = 10.0


class StepLog(History):
    """The history of a training that goes to MLflow as well."""

    def __init__(self, rank: Rank, tracking_uri: str, run_id: str) -> None:
        """Open the history where the training is resumed.

        Args:
            rank: Rank 0.
            tracking_uri: MLflow.
            run_id: The stage's MLflow run.
        """
        super().__init__(rank.job, rank.trainer.state, rank.frames_per_s_at_peak)
        self._curves = MlflowCurves(tracking_uri, run_id, self.records)
        resumed_from = rank.trainer.resumed_from
        where = "the beginning" if resumed_from is None else resumed_from.name
        self._curves.tag({"restarts": str(self.restarts), "started_from": where})
        self._curves.log(self.records)

    def write(self, progress: Progress) -> Record:
        """Append one record to the history and log it."""
        record = super().write(progress)
        self._curves.log([record])
        return record

    def write_examples(self, step: int, batch: Batch, enhanced: Tensor) -> Path:
        """Draw enhanced examples and log them as artifacts."""
        folder = super().write_examples(step, batch, enhanced)
        self._curves.log_artifacts(folder, f"examples/{folder.name}")
        return folder


class MlflowCurves:
    """The curves of a training in an MLflow run: each step once; a store that does not answer stops no training."""

    def __init__(self, tracking_uri: str, run_id: str, known: Sequence[Record] = ()) -> None:
        """Ask MLflow which steps it has.

        A rerun's new MLflow run has none and gets the whole curve; that of a restarted worker gets the rest.

        Args:
            tracking_uri: MLflow.
            run_id: The run.
            known: Records that were logged before, should MLflow not say what it has.
        """
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        import mlflow
        from mlflow.exceptions import MlflowException

        self._client: Any = mlflow.MlflowClient(tracking_uri=tracking_uri)
        self._run_id = run_id
        self._pending: list[Record] = []
        try:
            logged = self._client.get_metric_history(run_id, "train_loss")
            self._steps = {int(metric.step) for metric in logged}
        except MlflowException as error:
            print(f"training: MLflow does not say what it has, so nothing before this is logged again: {error}")
            self._steps = {int(record["step"]) for record in known}

    def log(self, records: Sequence[Record]) -> None:
        """Log the records whose steps MLflow does not have; what it does not take is logged with the next records."""
        from mlflow.entities import Metric
        from mlflow.exceptions import MlflowException

        self._pending += [record for record in records if record["step"] not in self._steps]
        now = int(time.time() * 1000)
        try:
            while self._pending:
                # All metrics of a record go out in one call: a step that has one of them has them all.
                some = self._pending[:_RECORDS_PER_CALL]
                metrics = [
                    Metric(name, value, now, int(record["step"]))
                    for record in some
                    for name, value in record.items()
                    if name != "step" and math.isfinite(value)
                ]
                self._client.log_batch(self._run_id, metrics=metrics)
                self._steps.update(int(record["step"]) for record in some)
                del self._pending[: len(some)]
        except MlflowException as error:
            print(f"training: MLflow did not take step {self._pending[-1]['step']}: {error}")

    def tag(self, values: Mapping[str, str]) -> None:
        """Set tags of the run."""
        from mlflow.exceptions import MlflowException

        try:
            for key, value in values.items():
                self._client.set_tag(self._run_id, key, value)
        except MlflowException as error:
            print(f"training: MLflow did not take the tags {values}: {error}")

    def log_artifacts(self, folder: Path, name: str) -> None:
        """Log the files of a folder."""
        from mlflow.exceptions import MlflowException

        try:
            self._client.log_artifacts(self._run_id, str(folder), name)
        except MlflowException as error:
            print(f"training: {name} is only in {folder}: {error}")


@contextmanager
def progress_reported(folder: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Report how far rank 0 is, at most every ten seconds and at the end, while the block runs.

    Args:
        folder: Of the training's history.
        say: Prints one line.
    """
    ended = threading.Event()
    said = len(read_notes(folder))

    def say_notes() -> None:
        nonlocal said
        for note in read_notes(folder)[said:]:
            said += 1
            say(note)

    def watch() -> None:
        shown, shown_at = "", -math.inf
        while not ended.wait(_POLL_S):
            say_notes()
            figures = read_progress(folder)
            line = training_line(figures) if figures else ""
            if line in ("", shown) or time.monotonic() - shown_at < _PAUSE_S:
                continue
            shown, shown_at = line, time.monotonic()
            say(line)

    forget_progress(folder)
    thread = threading.Thread(target=watch, name="train progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        say_notes()
        figures = read_progress(folder)
        if figures:
            say(training_line(figures))


def training_line(figures: Record) -> str:
    """Write in one line how far a training is, or the mel cache before its first step."""
    if "cached" in figures:
        left_s = figures["seconds"] / figures["cached"] * (figures["shards"] - figures["cached"])
        done = f"log-mels of {figures['cached']:.0f}/{figures['shards']:.0f} shards computed"
        return f"{done}  {duration(left_s)} left"
    return f"{progress_line(figures)}  {duration(figures['eta_s'])} left"
