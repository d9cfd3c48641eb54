"""Laws of checkpoints: a saved one is loaded again, a damaged one is passed over, the newest and the best stay."""

import dataclasses
from pathlib import Path

import pytest
import torch

from flowse.files import temporary_beside
from flowse.training.checkpoint import (
    Checkpoint,
    CheckpointError,
    State,
    latest,
    listed,
    load,
    newest_whole,
    path_of,
    prune,
    read_state,
    save,
)
from flowse.training.ledger import Segment


def checkpoint(step: int) -> Checkpoint:
    state = State(
        step=step,
        epoch=2,
        samples=7,
        ema_updates=step,
        seed=1,
        best_step=5,
        best_loss=0.5,
        identity={"a": [1, "b"]},
    )
    weights = {"w": torch.full((2, 3), float(step))}
    return Checkpoint(state, weights, {"w": weights["w"] / 2}, {"state": {"w": {"exp_avg": torch.ones(2)}}})


def test_a_saved_checkpoint_is_loaded_again(tmp_path: Path) -> None:
    saved = checkpoint(12)
    loaded = load(save(tmp_path, saved))
    assert loaded.state == saved.state
    assert torch.equal(loaded.model["w"], saved.model["w"])
    assert torch.equal(loaded.ema["w"], saved.ema["w"])
    assert torch.equal(loaded.optimizer["state"]["w"]["exp_avg"], torch.ones(2))


@pytest.mark.parametrize("name", ["model.safetensors", "ema.safetensors", "optimizer.pt", "state.json"])
@pytest.mark.parametrize("damage", ["missing", "cut"])
def test_a_damaged_checkpoint_is_passed_over(tmp_path: Path, name: str, damage: str) -> None:
    save(tmp_path, checkpoint(1))
    newest = save(tmp_path, checkpoint(2)) / name
    if damage == "missing":
        newest.unlink()
    else:
        newest.write_bytes(newest.read_bytes()[:-7])
    assert latest(tmp_path) == path_of(tmp_path, 1)
    with pytest.raises(CheckpointError, match="step-00000002"):
        read_state(path_of(tmp_path, 2))


def test_an_unfinished_write_is_no_checkpoint(tmp_path: Path) -> None:
    temporary_beside(tmp_path / "step-00000009").mkdir(parents=True)
    assert latest(tmp_path) is None
    save(tmp_path, checkpoint(1))
    prune(tmp_path, 1)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]


def test_the_newest_and_the_best_stay(tmp_path: Path) -> None:
    for step in range(1, 9):
        save(tmp_path, checkpoint(step))
        prune(tmp_path, 2, [5])
    assert [read_state(path).step for path in listed(tmp_path)] == [5, 7, 8]


def test_a_step_saved_again_replaces_itself(tmp_path: Path) -> None:
    save(tmp_path, checkpoint(3))
    assert read_state(save(tmp_path, checkpoint(3))).step == 3
    assert latest(tmp_path / "nowhere") is None


def test_a_checkpoint_belongs_to_the_identity_that_it_was_saved_with(tmp_path: Path) -> None:
    saved = read_state(save(tmp_path, checkpoint(1)))
    assert saved.belongs_to({"a": (1, "b")})  # JSON knows lists alone
    assert not saved.belongs_to({"a": [1, "c"]})


@pytest.mark.parametrize("name", ["model.safetensors", "ema.safetensors", "optimizer.pt", "state.json"])
@pytest.mark.parametrize("place", [0.0, 0.75])
def test_a_checkpoint_whose_bytes_changed_is_passed_over_and_named(tmp_path: Path, name: str, place: float) -> None:
    save(tmp_path, checkpoint(1))
    newest = save(tmp_path, checkpoint(2))
    content = bytearray((newest / name).read_bytes())
    content[int(place * len(content))] ^= 1
    (newest / name).write_bytes(content)
    path, findings = newest_whole(tmp_path)
    assert path == path_of(tmp_path, 1)
    (finding,) = findings
    assert f"step-00000002/{name}" in finding or name == "state.json"
    assert "step-00000002" in finding
    with pytest.raises(CheckpointError, match="step-00000002"):
        load(newest)


def test_without_a_whole_checkpoint_all_are_named(tmp_path: Path) -> None:
    assert newest_whole(tmp_path) == (None, [])
    (save(tmp_path, checkpoint(1)) / "model.safetensors").write_bytes(b"")
    path, findings = newest_whole(tmp_path)
    assert path is None
    assert len(findings) == 1


def test_a_state_keeps_its_segments(tmp_path: Path) -> None:
    segments = (Segment(to_step=4, finished="max_steps", world_sizes=(2, 1)), Segment(from_step=4, from_lr=0.1))
    saved = dataclasses.replace(checkpoint(4), state=dataclasses.replace(checkpoint(4).state, segments=segments))
    assert read_state(save(tmp_path, saved)).segments == segments
