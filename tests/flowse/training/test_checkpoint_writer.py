"""Laws of writing checkpoints beside the training: what was there at the call is written, or the one before stays."""

import multiprocessing
import os
import signal
from pathlib import Path

import pytest
import torch

from flowse.training import checkpoint_writer
from flowse.training.checkpoint import State, load, newest_whole, path_of
from flowse.training.checkpoint_writer import CheckpointWriter
from flowse.training.ranks import Ranks

pytestmark = pytest.mark.timeout(120)


def state(step: int, best_step: int = -1) -> State:
    return State(step=step, epoch=0, samples=0, ema_updates=step, seed=1, best_step=best_step)


def tensors(value: float) -> dict[str, torch.Tensor]:
    return {
        "model.w": torch.full((2, 3), value),
        "ema.w": torch.full((2, 3), value / 2),
        "optimizer.w.step": torch.tensor(value),
    }


def writer(folder: Path, keep_last: int = 2) -> CheckpointWriter:
    return CheckpointWriter(folder, keep_last=keep_last, device=torch.device("cpu"), ranks=Ranks())


def test_what_changes_after_the_call_is_not_what_is_written(tmp_path: Path) -> None:
    writing, held = writer(tmp_path, keep_last=3), tensors(1.0)
    for step in (1, 2, 3):
        assert writing.write(state(step), held) == path_of(tmp_path, step)
        for value in held.values():
            value += 1
    writing.wait()
    assert newest_whole(tmp_path) == (path_of(tmp_path, 3), [])
    for step in (1, 2, 3):
        found = load(path_of(tmp_path, step))
        assert found.state == state(step)
        assert {name: float(value.max()) for name, value in found.tensors.items()} == {
            "model.w": step,
            "ema.w": step - 0.5,
            "optimizer.w.step": step,
        }


def test_the_newest_and_the_best_stay(tmp_path: Path) -> None:
    writing = writer(tmp_path, keep_last=1)
    for step in (1, 2, 3):
        writing.write(state(step, best_step=1), tensors(step))
    writing.wait()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000001", "step-00000003"]


@pytest.mark.parametrize("where", ["file_facts", "write_state", "replace_folder"])
def test_a_checkpoint_that_cannot_be_written_is_an_error_and_the_one_before_stays(
    tmp_path: Path, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    writing = writer(tmp_path)
    writing.write(state(1), tensors(1.0))
    writing.wait()

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint_writer, where, fail)
    writing.write(state(2), tensors(2.0))
    with pytest.raises(OSError, match="No space left"):
        writing.wait()
    writing.wait()
    assert newest_whole(tmp_path) == (path_of(tmp_path, 1), [])
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]


def test_a_folder_that_nothing_can_be_written_to_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        writer(tmp_path / "file").write(state(1), tensors(1.0))


def _kill_while_writing(folder: Path, where: str) -> None:
    writing = writer(folder)
    writing.write(state(1), tensors(1.0))
    writing.wait()
    setattr(checkpoint_writer, where, lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    writing.write(state(2), tensors(2.0))
    writing.wait()


@pytest.mark.parametrize("where", ["file_facts", "replace_folder"])
def test_a_process_that_is_killed_while_it_writes_leaves_the_checkpoint_before(tmp_path: Path, where: str) -> None:
    process = multiprocessing.get_context("spawn").Process(target=_kill_while_writing, args=(tmp_path, where))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    path, findings = newest_whole(tmp_path)
    assert (path, findings) == (path_of(tmp_path, 1), [])
    assert load(path_of(tmp_path, 1)).state == state(1)
