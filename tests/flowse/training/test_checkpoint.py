"""Laws of checkpoints: a saved one is loaded again, a damaged one is passed over, the newest and the best stay."""

import dataclasses
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from flowse.files import sha256_file, temporary_beside
from flowse.training.checkpoint import (
    Checkpoint,
    CheckpointError,
    State,
    fill,
    is_old,
    latest,
    listed,
    load,
    newest_whole,
    path_of,
    prune,
    read_state,
    renew,
    save,
    sweep,
    write_state,
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
    weights = torch.full((2, 3), float(step))
    tensors = {"model.w": weights, "ema.w": weights / 2}
    return Checkpoint(state, {**tensors, "optimizer.w.exp_avg": torch.ones(2), "optimizer.w.step": torch.tensor(3.0)})


FILES = ["model-00000.safetensors", "ema-00000.safetensors", "optimizer-00000.safetensors", "state.json"]


def test_a_saved_checkpoint_is_loaded_again(tmp_path: Path) -> None:
    saved = checkpoint(12)
    loaded = load(save(tmp_path, saved))
    assert loaded.state == saved.state
    assert torch.equal(loaded.model["w"], saved.model["w"])
    assert torch.equal(loaded.ema["w"], saved.ema["w"])
    assert {name: value.tolist() for name, value in loaded.of("optimizer").items()} == {
        "w.exp_avg": [1.0, 1.0],
        "w.step": 3.0,
    }
    averaged = load(path_of(tmp_path, 12), ["ema"])
    assert list(averaged.tensors) == ["ema.w"]


def test_tensors_are_filled_in_their_places_and_none_may_be_missing_or_of_another_shape(tmp_path: Path) -> None:
    path = save(tmp_path, checkpoint(12))
    weight = torch.zeros(2, 3)
    fill(path, {"model.w": weight})
    assert torch.equal(weight, torch.full((2, 3), 12.0))
    for stranger in ({"model.v": torch.zeros(2, 3)}, {"model.w": torch.zeros(3, 3)}):
        with pytest.raises(CheckpointError, match="step-00000012 cannot be read"):
            fill(path, stranger)


def old_checkpoint(folder: Path, saved: Checkpoint) -> Path:
    """Write a checkpoint as it was before each rank wrote its share."""
    path = save(folder, saved)
    save_file(saved.model, path / "model.safetensors")
    save_file(saved.ema, path / "ema.safetensors")
    moments = {"exp_avg": torch.ones(2), "step": torch.tensor(3.0)}
    torch.save({"state": {"w": moments}, "param_groups": [{"lr": 0.1}]}, path / "optimizer.pt")
    for share in path.glob("*-00000.safetensors"):
        share.unlink()
    names = ["model.safetensors", "ema.safetensors", "optimizer.pt"]
    write_state(path, saved.state, {name: ((path / name).stat().st_size, sha256_file(path / name)) for name in names})
    return path


def test_a_checkpoint_of_before_is_read_and_renewed(tmp_path: Path) -> None:
    saved = checkpoint(12)
    path = old_checkpoint(tmp_path, saved)
    assert is_old(path)
    for _ in range(2):
        found = load(path)
        assert found.state == saved.state
        assert {name: value.tolist() for name, value in found.tensors.items()} == {
            name: value.tolist() for name, value in saved.tensors.items()
        }
        renew(path)
    assert not is_old(path)
    assert newest_whole(tmp_path) == (path, [])


@pytest.mark.parametrize("name", FILES)
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


def test_a_checkpoint_under_the_name_of_another_step_is_none(tmp_path: Path) -> None:
    shutil.copytree(save(tmp_path, checkpoint(1)), path_of(tmp_path, 9))
    path, findings = newest_whole(tmp_path)
    assert path == path_of(tmp_path, 1)
    assert "step-00000009 holds step 1" in findings[0]


@pytest.mark.parametrize("kind", ["file", "dead link"])
def test_what_is_no_folder_is_no_checkpoint_and_in_nobodys_way(tmp_path: Path, kind: str) -> None:
    save(tmp_path, checkpoint(1))
    for step in (2, 3):
        if kind == "file":
            path_of(tmp_path, step).write_bytes(b"x")
        else:
            path_of(tmp_path, step).symlink_to(tmp_path / "nowhere")
    assert newest_whole(tmp_path)[0] == path_of(tmp_path, 1)
    assert read_state(save(tmp_path, checkpoint(3))).step == 3
    prune(tmp_path, 1)
    assert listed(tmp_path) == [path_of(tmp_path, 3)]


def test_an_unfinished_write_is_no_checkpoint(tmp_path: Path) -> None:
    temporary_beside(tmp_path / "step-00000009").mkdir(parents=True)
    assert latest(tmp_path) is None
    save(tmp_path, checkpoint(1))
    sweep(tmp_path)
    sweep(tmp_path / "absent")
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


@pytest.mark.parametrize("name", FILES)
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
    (save(tmp_path, checkpoint(1)) / "model-00000.safetensors").write_bytes(b"")
    path, findings = newest_whole(tmp_path)
    assert path is None
    assert len(findings) == 1


def test_a_state_keeps_its_segments(tmp_path: Path) -> None:
    segments = (Segment(to_step=4, finished="max_steps", world_sizes=(2, 1)), Segment(from_step=4, from_lr=0.1))
    saved = dataclasses.replace(checkpoint(4), state=dataclasses.replace(checkpoint(4).state, segments=segments))
    assert read_state(save(tmp_path, saved)).segments == segments
