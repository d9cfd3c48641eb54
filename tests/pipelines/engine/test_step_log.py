"""Laws of the step log: MLflow has each step once, a store that fails stops nothing, people see how far it is."""

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from mlflow.exceptions import MlflowException

from flowse.training.history import write_progress
from flowse.training.progress import Record
from pipelines.engine import step_log
from pipelines.engine.step_log import MlflowCurves, progress_reported, training_line

FIGURES: Record = {
    "step": 50, "max_steps": 100, "train_loss": 0.5, "frames_per_s": 1234.0, "audio_hours_per_hour": 13.2,
    "eta_s": 75.0,
}  # fmt: skip


class Store:
    """An MLflow client that keeps what it is given, and fails while it is down."""

    def __init__(self, steps: Sequence[int] = ()) -> None:
        self.steps, self.down, self.calls, self.tries = list(steps), False, 0, 0
        self.hangs: threading.Event | None = None
        self.others: list[str] = []

    def _answer(self) -> None:
        self.tries += 1
        if self.hangs is not None:
            self.hangs.wait()
        if self.down:
            raise MlflowException("the store is down")

    def get_metric_history(self, run_id: str, name: str) -> list[Any]:
        self._answer()
        return [SimpleNamespace(step=step) for step in self.steps]

    def log_batch(self, run_id: str, metrics: Sequence[Any]) -> None:
        self._answer()
        self.calls += 1
        self.steps += [metric.step for metric in metrics if metric.key == "train/loss"]

    def set_tag(self, run_id: str, key: str, value: str) -> None:
        self._answer()
        self.others.append(key)

    def log_artifacts(self, run_id: str, folder: str, name: str) -> None:
        self._answer()
        self.others.append(name)


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Store:
    store = Store()
    monkeypatch.setattr("mlflow.MlflowClient", lambda tracking_uri: store)
    monkeypatch.setattr(step_log, "_FIRST_PAUSE_S", 0.01)
    return store


def records(*steps: int) -> list[Record]:
    return [{"step": step, "train_loss": 0.5, "lr": 1e-3, "grad_norm": float("nan")} for step in steps]


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.005)
    assert condition()


def test_a_step_that_mlflow_has_is_not_logged_again(store: Store) -> None:
    store.steps = [10, 20]
    MlflowCurves("uri", "run", records(10, 20, 30)).close()
    assert store.steps == [10, 20, 30]


def test_what_a_store_did_not_take_follows_once_it_is_back(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    known = records(10)
    store.down = True
    curves = MlflowCurves("uri", "run", known)
    curves.tag({"restarts": "1"})
    curves.log_artifacts(Path("examples"), "examples/step-10")
    wait_for(lambda: store.tries > 3)
    known += records(20)
    curves.wake()
    store.down = False
    wait_for(lambda: store.steps == [10, 20])
    curves.close()
    assert store.steps == [10, 20]
    assert store.others == ["restarts", "examples/step-10"]
    assert capsys.readouterr().out.count("the store is down") == 1  # said once, not at every try


def test_artifacts_that_no_store_takes_keep_no_curve_back(
    store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    refused = []

    def no_place(run_id: str, folder: str, name: str) -> None:
        refused.append(name)
        raise MlflowException("no credentials for the bucket of the artifacts")

    monkeypatch.setattr(store, "log_artifacts", no_place)
    curves = MlflowCurves("uri", "run", records(10, 20))
    curves.log_artifacts(Path("examples"), "examples/step-10")
    curves.tag({"restarts": "1"})
    wait_for(lambda: len(refused) == 3 and store.steps == [10, 20])
    curves.close()
    assert store.others == ["restarts"]
    assert not curves._tasks  # it is not asked for again and again
    assert "no credentials" in capsys.readouterr().out


def test_nothing_waits_for_a_store_that_hangs(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    store.hangs = threading.Event()
    curves = MlflowCurves("uri", "run", records(10))
    for step in range(1000):
        curves.tag({"step": str(step)})
        curves.wake()
    assert len(curves._tasks) <= 64
    curves.close(timeout_s=0.01)
    assert "lacks 1 of 1 records" in capsys.readouterr().out
    store.hangs.set()


def test_many_records_go_out_in_few_calls(store: Store) -> None:
    MlflowCurves("uri", "run", records(*range(100))).close()
    assert store.steps == list(range(100))
    assert store.calls == 3


def test_a_line_says_steps_and_time_left() -> None:
    assert training_line(FIGURES) == "50/100 steps  loss 0.5000  1,234 frames/s (13× real time)  1:15 left"


def test_the_mel_caches_line_says_shards_and_time_left() -> None:
    line = training_line({"cached": 3, "shards": 12, "seconds": 30.0})
    assert "3/12 shards" in line
    assert "1:30 left" in line


def test_progress_is_reported_while_it_changes_and_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_log, "_PAUSE_S", 0.0)
    monkeypatch.setattr(step_log, "_POLL_S", 0.01)
    write_progress(tmp_path, {**FIGURES, "step": 1})  # of an earlier process: not reported
    lines: list[str] = []
    with progress_reported(tmp_path, lines.append):
        time.sleep(0.05)
        write_progress(tmp_path, FIGURES)
        deadline = time.monotonic() + 30
        while not lines and time.monotonic() < deadline:
            time.sleep(0.01)
        write_progress(tmp_path, {**FIGURES, "step": 100})
    assert "50/100" in lines[0]
    assert "100/100" in lines[-1]
    assert not any("1/100 steps" in line.split() for line in lines)


def test_a_log_says_that_a_training_begins_before_its_first_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(step_log, "_POLL_S", 0.01)
    monkeypatch.setattr(step_log, "_BEGINS_S", 0.02)
    lines: list[str] = []
    with progress_reported(tmp_path, lines.append):
        wait_for(lambda: len(lines) >= 2)
    assert all(line.startswith("begins") for line in lines)


def test_a_bar_has_step_loss_rate_and_time_left() -> None:
    assert step_log._bar_state(FIGURES) == (0.5, "50/100 steps  loss 0.500  13×  1:15 left")
    assert step_log._bar_state({"cached": 3, "shards": 12, "seconds": 30.0})[0] == 0.25
