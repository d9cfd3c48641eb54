"""What people see of a training while it runs: curves and examples in MLflow, and a line now and then."""

from __future__ import annotations

import math
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flowse.console import duration
from flowse.live_area import Bar
from flowse.training.history import History, forget_progress, read_notes, read_progress
from flowse.training.progress import Progress, Record, curve_name, progress_line

if TYPE_CHECKING:
    from torch import Tensor

    from flowse.data.batching import Batch
    from flowse.training.rank import Rank

_RECORDS_PER_CALL = 40
_TASKS = 64  # tags and folders of examples that wait for MLflow at most; the oldest are given up first
_TRIES = 3  # of a tag or a folder of examples: MLflow may have no place for artifacts
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 60.0
_LAST_WAIT_S = 60.0
_POLL_S = 1.0
_PAUSE_S = 10.0
_BEGINS_S = 30.0


class StepLog(History):
    """The history of a training that goes to MLflow as well; no step waits for MLflow."""

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

    def write(self, progress: Progress) -> Record:
        """Append one record to the history, and let it be logged."""
        record = super().write(progress)
        self._curves.wake()
        return record

    def write_examples(self, step: int, batch: Batch, enhanced: Tensor) -> Path:
        """Draw enhanced examples, and let them be logged as artifacts."""
        folder = super().write_examples(step, batch, enhanced)
        self._curves.log_artifacts(folder, f"examples/{folder.name}")
        return folder

    def close(self) -> None:
        """Wait a minute at most until MLflow has everything."""
        super().close()
        self._curves.close()


@dataclass(frozen=True)
class _Task:
    """Something that MLflow is asked for besides the curves.

    Attributes:
        do: Asks for it.
        tries_left: How often it is asked for at most.
    """

    do: Callable[[], None]
    tries_left: int = _TRIES


class MlflowCurves:
    """The curves of a training in an MLflow run: each step once, logged by a thread that nothing waits for.

    The records themselves are the queue: the thread logs those whose steps MLflow does not have. While MLflow does not
    answer, the thread tries again at longer and longer intervals; what it missed goes out once MLflow is back.
    """

    def __init__(self, tracking_uri: str, run_id: str, records: Sequence[Record]) -> None:
        """Start the thread; it asks MLflow which steps it has.

        A rerun's new MLflow run has none and gets the whole curve; that of a restarted worker gets the rest.

        Args:
            tracking_uri: MLflow.
            run_id: The run.
            records: All records of the training; the list grows as it trains.
        """
        self._uri, self._run_id, self._records = tracking_uri, run_id, records
        self._client: Any = None
        self._steps: set[int] = set()
        self._tasks: deque[_Task] = deque(maxlen=_TASKS)
        self._wake, self._closing = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._work, name="mlflow", daemon=True)
        self._wake.set()
        self._thread.start()

    def wake(self) -> None:
        """Say that there are more records."""
        self._wake.set()

    def tag(self, values: Mapping[str, str]) -> None:
        """Let tags of the run be set."""

        def task() -> None:
            for key, value in values.items():
                self._client.set_tag(self._run_id, key, value)

        self._tasks.append(_Task(task))
        self._wake.set()

    def log_artifacts(self, folder: Path, name: str) -> None:
        """Let the files of a folder be logged."""
        self._tasks.append(_Task(lambda: self._client.log_artifacts(self._run_id, str(folder), name)))
        self._wake.set()

    def close(self, timeout_s: float = _LAST_WAIT_S) -> None:
        """Wait until everything is logged, but no longer than `timeout_s` seconds; say what is not."""
        self._closing.set()
        self._wake.set()
        self._thread.join(timeout_s)
        missing = len(self._waiting())
        if missing:
            print(f"training: MLflow at {self._uri} lacks {missing} of {len(self._records)} records of its curves")

    def _waiting(self) -> list[Record]:
        return [record for record in list(self._records) if record["step"] not in self._steps]

    def _work(self) -> None:
        pause_s = 0.0
        while not (self._closing.is_set() and not self._tasks and not self._waiting()):
            if pause_s:
                self._closing.wait(pause_s)
            else:
                self._wake.wait()
            self._wake.clear()
            try:
                self._log()
                pause_s = 0.0
            except Exception as error:  # noqa: BLE001 - whatever MLflow raises, the training goes on
                if not pause_s:
                    first_line = next(iter(str(error).splitlines()), type(error).__name__)
                    print(f"training: MLflow at {self._uri} does not take everything, the rest follows: {first_line}")
                if self._closing.is_set():
                    return
                pause_s = min(_LONGEST_PAUSE_S, max(_FIRST_PAUSE_S, 2 * pause_s))

    def _log(self) -> None:
        """Log what MLflow does not have yet; raise what MLflow raises."""
        if self._client is None:
            self._client = self._connected()
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        waiting = self._waiting()
        for begin in range(0, len(waiting), _RECORDS_PER_CALL):
            # All metrics of a record go out in one call: a step that has one of them has them all.
            some = waiting[begin : begin + _RECORDS_PER_CALL]
            metrics = [
                Metric(curve_name(name), value, now, int(record["step"]))
                for record in some
                for name, value in record.items()
                if name != "step" and math.isfinite(value)
            ]
            self._client.log_batch(self._run_id, metrics=metrics)
            self._steps.update(int(record["step"]) for record in some)
        self._do_tasks()

    def _do_tasks(self) -> None:
        """Do what is to be done besides the curves; raise what MLflow raised at the last that it refused."""
        refused: Exception | None = None
        for _ in range(len(self._tasks)):
            task = self._tasks.popleft()
            try:
                task.do()
            except Exception as error:  # noqa: BLE001 - it is raised below, once the others are done
                refused = error
                if task.tries_left > 1:
                    self._tasks.append(_Task(task.do, task.tries_left - 1))
        if refused is not None:
            raise refused

    def _connected(self) -> Any:
        """Connect to MLflow and ask which steps it has."""
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
        import mlflow

        client = mlflow.MlflowClient(tracking_uri=self._uri)
        logged = client.get_metric_history(self._run_id, curve_name("train_loss"))
        self._steps = {int(metric.step) for metric in logged}
        return client


@contextmanager
def progress_reported(folder: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Report how far rank 0 is, while the block runs: on a terminal by a bar, else by a line every ten seconds.

    There is a line at the end, and one every half minute before the first step.

    Args:
        folder: Of the training's history.
        say: Prints one line.
    """
    ended = threading.Event()
    said, begins = len(read_notes(folder)), 0

    def say_notes() -> None:
        nonlocal said
        for note in read_notes(folder)[said:]:
            said += 1
            say(note)

    def watch() -> None:
        nonlocal begins
        shown, shown_at, begun = "", -math.inf, time.monotonic()
        while not ended.wait(_POLL_S):
            say_notes()
            figures = read_progress(folder)
            waited_s = time.monotonic() - begun
            if bar.live:
                bar.show(*(_bar_state(figures) if figures else (0.0, "begins")))
                continue
            if not figures and waited_s > _BEGINS_S * (1 + begins):
                begins += 1
                say(f"begins  {duration(waited_s)} elapsed")
            line = training_line(figures) if figures else ""
            if line in ("", shown) or time.monotonic() - shown_at < _PAUSE_S:
                continue
            shown, shown_at = line, time.monotonic()
            say(line)

    forget_progress(folder)
    bar = Bar("train")
    thread = threading.Thread(target=watch, name="train progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        bar.end()
        say_notes()
        figures = read_progress(folder)
        if figures:
            say(training_line(figures))


def _bar_state(figures: Record) -> tuple[float, str]:
    """Return the share that is done, and step, loss, rate and time left in few words."""
    if "cached" in figures:
        return figures["cached"] / max(figures["shards"], 1), training_line(figures)
    step, steps, rate = figures["step"], figures["max_steps"], figures["audio_hours_per_hour"]
    left = duration(figures["eta_s"])
    return step / max(
        steps, 1
    ), f"{step:.0f}/{steps:.0f} steps  loss {figures['train_loss']:.3f}  {rate:,.0f}×  {left} left"


def training_line(figures: Record) -> str:
    """Write in one line how far a training is, or the mel cache before its first step."""
    if "cached" in figures:
        left_s = figures["seconds"] / figures["cached"] * (figures["shards"] - figures["cached"])
        done = f"log-mels of {figures['cached']:.0f}/{figures['shards']:.0f} shards computed"
        return f"{done}  {duration(left_s)} left"
    return f"{progress_line(figures)}  {duration(figures['eta_s'])} left"
