"""Laws of the ledger: which run a training goes on with, what makes another segment, and what it says of itself."""

import dataclasses
import json
from pathlib import Path

import pytest

from flowse.json_records import WrongShape, to_json
from flowse.training.config import OptimConfig, TrainConfig
from flowse.training.ledger import (
    CHECKPOINTS,
    RunState,
    Segment,
    choose_run,
    read_segments,
    retire_runs,
    run_identity,
    segment_settings,
    write_segments,
)
from tests.small_shards import TINY

LONGER = dataclasses.replace(TINY, max_steps=24)


def segment(config: TrainConfig = TINY, dataset: str = "d", **changes: object) -> Segment:
    values = {
        "settings": segment_settings(config),
        "dataset": dataset,
        "to_step": 12,
        "finished": "max_steps",
        **changes,
    }
    return Segment(**values)  # type: ignore[arg-type]


def begun(folder: Path, *segments: Segment) -> Path:
    path = folder / "checkpoints" / f"step-{segments[-1].to_step:08d}"
    path.mkdir(parents=True)
    record = {"step": segments[-1].to_step, "segments": to_json(segments)}
    (path / "state.json").write_text(json.dumps(record))
    return folder


def first_run(runs: Path, config: TrainConfig = TINY) -> Path:
    return choose_run(runs, run_identity(config, 5), config, "d").folder


def test_the_settings_of_a_training_are_either_its_runs_identity_or_its_segments() -> None:
    identity, settings = run_identity(TINY, 5), segment_settings(TINY)
    assert not set(identity) & set(settings)
    marks = {item.name: item.metadata for item in dataclasses.fields(TrainConfig)}
    counted = {
        name
        for name, mark in marks.items()
        if mark.get("fingerprint", True) and mark.get("segment", True) is True  # and not only if it has no default
    }
    assert set(identity) | set(settings) == counted | {"seed"}
    assert "listen" not in counted  # it changes no weight
    assert "mixing" not in settings
    anew = dataclasses.replace(TINY, mixing="dynamic")
    assert segment_settings(anew, "digest") == {**settings, "mixing": "dynamic", "drawn_from": "digest"}
    assert Segment(settings=settings).digest != Segment(settings=segment_settings(anew)).digest
    assert {"optim", "max_steps", "augment", "frames_per_step"} <= set(settings)
    assert {"mel", "model", "flow", "text"} <= set(identity)


def test_a_setting_that_is_younger_than_a_segment_has_its_default() -> None:
    old = {name: value for name, value in segment_settings(TINY).items() if name not in ("distil", "divisible_by")}
    del old["loss"]["range_db"]
    assert Segment(settings=old, dataset="d").is_of(segment_settings(TINY), "d")
    other = dataclasses.replace(TINY, loss=dataclasses.replace(TINY.loss, range_db=9.0))
    assert not Segment(settings=old, dataset="d").is_of(segment_settings(other), "d")


def test_without_a_run_of_this_identity_a_new_one_begins(tmp_path: Path) -> None:
    run = begun(first_run(tmp_path), segment())
    assert run == tmp_path / run.name
    other = choose_run(tmp_path, run_identity(TINY, 6), TINY, "d")
    assert (other.folder != run, other.before) == (True, ())


def test_a_new_run_says_what_keeps_it_from_the_one_that_is_there(tmp_path: Path) -> None:
    run = begun(first_run(tmp_path), segment())
    state = run / CHECKPOINTS / "step-00000012" / "state.json"
    record = json.loads(state.read_text())
    deeper = dataclasses.replace(TINY, model=dataclasses.replace(TINY.model, depth=3), text=True)
    assert choose_run(tmp_path, run_identity(deeper, 5), deeper, "d").note == ""  # it is not known of what the run is
    state.write_text(json.dumps({**record, "identity": {"run": run_identity(TINY, 5)}}))
    note = choose_run(tmp_path, run_identity(deeper, 5), deeper, "d").note
    assert note.startswith(f"another run begins: {run.name} has another model, text,")
    assert choose_run(tmp_path, run_identity(TINY, 5), LONGER, "d").note == ""
    retire_runs(tmp_path)
    assert choose_run(tmp_path, run_identity(deeper, 5), deeper, "d").note == ""


def test_the_same_settings_and_data_are_the_same_training(tmp_path: Path) -> None:
    run = begun(first_run(tmp_path), segment(to_step=7, finished=""))
    again = choose_run(tmp_path, run_identity(TINY, 5), TINY, "d")
    assert (again.folder, again.before) == (run, ())


@pytest.mark.parametrize(
    ("config", "dataset"),
    [(LONGER, "d"), (dataclasses.replace(LONGER, optim=OptimConfig(lr=1e-5)), "d"), (LONGER, "grown")],
)
def test_other_settings_or_data_go_on_with_the_run(tmp_path: Path, config: TrainConfig, dataset: str) -> None:
    run = begun(first_run(tmp_path), segment())
    choice = choose_run(tmp_path, run_identity(config, 5), config, dataset)
    assert (choice.folder, choice.before) == (run, (segment(),))
    anew = choose_run(tmp_path, run_identity(config, 5), config, dataset, proceed=False)
    assert (anew.folder != run, anew.before) == (True, ())


def test_a_run_that_is_longer_already_is_not_gone_on_with_and_said_so(tmp_path: Path) -> None:
    run = begun(first_run(tmp_path), segment())
    shorter = dataclasses.replace(TINY, max_steps=6)
    choice = choose_run(tmp_path, run_identity(shorter, 5), shorter, "d")
    assert (choice.folder != run, choice.before) == (True, ())
    assert "12 steps and train.max_steps=6" in choice.note


def test_an_earlier_segment_that_is_finished_is_done_as_long_as_its_output_is_there(tmp_path: Path) -> None:
    run = begun(first_run(tmp_path), segment(), segment(LONGER, from_step=12, to_step=24))
    done = choose_run(tmp_path, run_identity(TINY, 5), TINY, "d", has_output=lambda before: before == ())
    assert (done.folder, done.before) == (run, ())
    longer = choose_run(tmp_path, run_identity(LONGER, 5), LONGER, "d", proceed=False, has_output=lambda before: True)
    assert (longer.folder != run, longer.before) == (True, ())  # what went on is no run of its own
    gone = choose_run(tmp_path, run_identity(TINY, 5), TINY, "d")
    assert gone.folder != run


def test_a_retired_run_is_not_gone_on_with_but_kept(tmp_path: Path) -> None:
    run = begun(first_run(tmp_path), segment())
    assert (retire_runs(tmp_path), retire_runs(tmp_path)) == (1, 0)
    assert choose_run(tmp_path, run_identity(TINY, 5), TINY, "d").folder != run
    assert RunState.read(run) == RunState(12, (segment(),))


def test_only_runs_that_learned_from_a_dataset_are_retired(tmp_path: Path) -> None:
    run = begun(first_run(tmp_path), segment())
    assert retire_runs(tmp_path, lambda dataset: dataset != "d") == 0
    assert choose_run(tmp_path, run_identity(TINY, 5), TINY, "d").folder == run
    assert retire_runs(tmp_path, lambda dataset: dataset == "d") == 1
    # Of mixtures that were drawn anew nobody can say what they held.
    anew = dataclasses.replace(TINY, mixing="dynamic")
    begun(first_run(tmp_path), segment(settings=segment_settings(anew, "digest")))
    assert retire_runs(tmp_path, lambda dataset: False) == 1


def test_a_state_that_cannot_be_read_is_passed_over(tmp_path: Path) -> None:
    run = begun(first_run(tmp_path), segment())
    newer = run / "checkpoints" / "step-00000020"
    newer.mkdir()
    (newer / "state.json").write_text("{")
    assert RunState.read(run) == RunState(12, (segment(),))
    assert RunState.read(tmp_path / "nowhere") is None


def test_segments_are_read_as_they_were_written(tmp_path: Path) -> None:
    segments = (segment(code_commit="abc", world_sizes=(8, 16)), segment(LONGER, from_lr=1e-5, from_step=12))
    write_segments(tmp_path / "s.json", segments)
    assert read_segments(tmp_path / "s.json") == segments
    assert segments[0].describe() == "steps 0 to 12, lr 0.002, cosine, dataset d, 8/16 rank(s), commit abc"
    (tmp_path / "s.json").write_text("{}")
    with pytest.raises(WrongShape):
        read_segments(tmp_path / "s.json")


def test_a_digest_follows_what_changes_the_weights_alone() -> None:
    same = segment(code_commit="other", world_sizes=(3,))
    assert same.digest == segment().digest
    assert len({segment().digest, segment(LONGER).digest, segment(dataset="x").digest, segment(to_step=11).digest}) == 4
