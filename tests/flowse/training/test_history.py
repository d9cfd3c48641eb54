"""Laws of the history: each step once whatever happens, restarts counted, examples drawn and voiced."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from flowse.data.batching import Batch
from flowse.model.spec import ModelSpec
from flowse.training.checkpoint import State
from flowse.training.history import History, forget_progress, plot_history, read_history, read_notes, read_progress
from flowse.training.job import Job
from tests.flowse.training.test_progress import progress
from tests.small_shards import TINY


def job(folder: Path, **changes: object) -> Job:
    config = dataclasses.replace(TINY, **{"tensorboard": True, **changes})  # type: ignore[arg-type]
    return Job(config, ModelSpec(), None, 0, folder, folder, {}, 1)


def state(step: int) -> State:
    return State(step=step, epoch=0, samples=0, ema_updates=step, seed=0)


def test_a_restarted_history_drops_the_records_after_its_checkpoint(tmp_path: Path) -> None:
    first = History(job(tmp_path), state(0))
    for step in (10, 20, 30):
        first.write(progress(step=step))
    again = History(job(tmp_path), state(20))
    again.write(progress(step=30, eta_s=1.0))
    records = list(read_history(tmp_path))
    assert [record["step"] for record in records] == [10, 20, 30]
    assert records == again.records
    assert [record["restarts"] for record in records] == [0, 0, 1]
    starts = [json.loads(line) for line in (tmp_path / "starts.jsonl").read_text().splitlines()]
    assert [start["step"] for start in starts] == [0, 20]


def test_a_line_that_was_cut_off_ends_the_history(tmp_path: Path) -> None:
    history = History(job(tmp_path), state(0))
    history.write(progress(step=10))
    with (tmp_path / "history.jsonl").open("a") as file:
        file.write('{"step": 20, "tr')
    assert [record["step"] for record in read_history(tmp_path)] == [10]
    assert list(read_history(tmp_path / "nowhere")) == []


def test_what_a_disk_lost_of_history_progress_and_notes_stops_nothing(tmp_path: Path) -> None:
    for garbage in (b"", b"\xff\xfe{{12\n", b"12\n[]\n", b"null"):
        for name in ("history.jsonl", "progress.json", "starts.jsonl", "notes.txt"):
            (tmp_path / name).write_bytes(garbage)
        assert list(read_history(tmp_path)) == []
        assert read_progress(tmp_path) == {}
        assert isinstance(read_notes(tmp_path), list)


def test_the_newest_record_is_the_progress_until_it_is_forgotten(tmp_path: Path) -> None:
    history = History(job(tmp_path), state(0), frames_per_s_at_peak=4936.0)
    history.write(progress(step=10))
    history.write(progress(step=20))
    figures = read_progress(tmp_path)
    assert (figures["step"], figures["max_steps"]) == (20, 100)
    assert figures["mfu"] == pytest.approx(0.25)
    forget_progress(tmp_path)
    assert read_progress(tmp_path) == {}


@pytest.mark.parametrize(("vocoder", "suffixes"), [("", [".png"]), ("vocos-mel-24khz-small", [".flac", ".png"])])
def test_examples_are_drawn_and_with_a_vocoder_voiced(tmp_path: Path, vocoder: str, suffixes: list[str]) -> None:
    noisy, clean, enhanced = (torch.randn(1, 20, 100) - 6 for _ in range(3))
    batch = Batch(("dev/1",), (0,), noisy, clean, torch.tensor([20]), None)
    folder = History(job(tmp_path, vocoder=vocoder), state(0)).write_examples(10, batch, enhanced)
    assert folder == tmp_path / "examples" / "step-00000010"
    assert sorted(path.suffix for path in folder.glob("dev_1.*")) == suffixes


def test_tensorboard_has_the_same_curves(tmp_path: Path) -> None:
    history = History(job(tmp_path), state(0))
    history.write(progress(step=10))
    history.close()
    (events,) = (tmp_path / "tensorboard").iterdir()
    assert b"train/loss" in events.read_bytes()
    History(job(tmp_path / "without", tensorboard=False), state(0)).close()
    assert not (tmp_path / "without" / "tensorboard").exists()


def test_notes_are_read_as_they_were_written(tmp_path: Path) -> None:
    assert read_notes(tmp_path) == []
    history = History(job(tmp_path), state(0))
    history.note("a damaged checkpoint\nwas passed over")
    history.note("b")
    assert read_notes(tmp_path) == ["a damaged checkpoint was passed over", "b"]


def test_curves_are_drawn(tmp_path: Path) -> None:
    plot_history(
        [{"step": 1, "train_loss": 0.5}, {"step": 2, "train_loss": 0.4, "validation_loss": 0.6}], tmp_path / "c.png"
    )
    assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")
