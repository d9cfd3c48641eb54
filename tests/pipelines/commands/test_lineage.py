"""Lineage both ways: what is named used the utterance, nothing else did, and both directions agree."""

from __future__ import annotations

import argparse
import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from flowse.data.manifest import Utterance
from flowse.data.parquet import read_rows
from flowse.data.shards import read_index
from flowse.errors import UserError
from flowse.files import sha256_file
from flowse.simulation.dataset import DatasetSummary
from flowse.simulation.recipe import Recipe
from flowse.training.ledger import Segment, write_segments
from pipelines.commands import lineage
from pipelines.commands.lineage import Workspace, holders_of, known_rows, locate, of_model, of_utterance
from pipelines.engine.plan import StagePlan, plan_stage
from pipelines.engine.records import STAGE_RECORD
from pipelines.experiment import ExperimentConfig
from pipelines.stages import evaluate, export, simulate, train
from tests.pipelines.small_workspace import STAGES, hand_on, run_data_stages, run_stage, weights


@dataclass(frozen=True)
class World:
    """A workspace with two datasets (one and three copies); a model of the first one and its export."""

    folder: Path
    config: ExperimentConfig
    plans: dict[str, StagePlan]
    second: StagePlan

    @property
    def workspace(self) -> Workspace:
        return Workspace(self.folder, STAGES)

    def recipes(self) -> list[Recipe]:
        finished = self.plans["simulate"].finished
        assert finished is not None
        return list(read_rows(finished.parts(".recipes.parquet"), Recipe))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("lineage")
    workspace, config, plans = run_data_stages(folder)
    content = weights(config, folder)
    spec = json.dumps(config.train.spec().to_dict()).encode()
    hand_on(train, config, workspace, plans, {"model.safetensors": content, "spec.json": spec})
    hand_on(evaluate, config, workspace, plans, {"summary.json": b"{}"})
    hand_on(export, config, workspace, plans, {"model/model.safetensors": content, "model/config.json": b"{}"})
    more = replace(
        config, simulate=replace(config.simulate, copies=1, mixture=replace(config.simulate.mixture, max_s=1.0))
    )
    second = run_stage(simulate, more, workspace, dict(plans))
    return World(workspace, config, plans, second)


def test_an_utterance_is_followed_to_every_mixture_of_every_dataset(world: World) -> None:
    train_id = next(recipe.utt_id for recipe in world.recipes() if recipe.split == "train")
    found = of_utterance(world.workspace, train_id)
    expected = set()
    for plan in (world.plans["simulate"], world.second):
        assert plan.finished is not None
        rows = read_index(plan.finished.file("index.parquet"))
        expected |= {
            (plan.fingerprint, row.key, Path(row.shard).name, "speech") for row in rows if row.utt_id == train_id
        }
        for recipe in read_rows(plan.finished.parts(".recipes.parquet"), Recipe):
            if recipe.competitor_id == train_id:
                shard = next(Path(row.shard).name for row in rows if row.key == recipe.key)
                expected.add((plan.fingerprint, recipe.key, shard, "competing speech"))
    assert {
        (appearance.simulate, appearance.key, appearance.shard, appearance.heard_as) for appearance in found.appearances
    } == expected
    assert [step.stage for step in found.steps] == [
        "ingest",
        "quality",
        "filter_language",
        "transcribe",
        "simulate",
        "simulate",
    ]
    assert {step.outcome for step in found.steps} == {"kept"}
    assert [reader.stage for reader in found.readers] == ["train", "export"]
    assert found.readers[0].fingerprint == world.plans["train"].fingerprint
    shown = lineage.utterance_table(found)
    assert train_id in shown
    assert json.loads(lineage.to_json(found))["utt_id"] == train_id


def test_a_test_utterance_reaches_no_model(world: World) -> None:
    test_id = next(recipe.utt_id for recipe in world.recipes() if recipe.split == "test")
    found = of_utterance(world.workspace, test_id)
    assert found.appearances
    assert not found.readers


def test_noises_competitors_and_responses_are_followed_too(world: World) -> None:
    ingested = world.plans["ingest"].finished
    assert ingested is not None
    first = world.plans["simulate"].fingerprint
    ways = set()
    for row in read_rows(ingested.parts(".parquet"), Utterance):
        expected = set()
        for recipe in world.recipes():
            placed = (recipe.speech_source, recipe.competitor_source, *recipe.noise_sources)
            if row.utt_id in recipe.noise_ids:
                expected.add((recipe.key, "noise"))
            if recipe.competitor_id == row.utt_id:
                expected.add((recipe.key, "competing speech"))
            if row.kind == "rir" and recipe.room_id == f"{row.corpus}/{row.speaker}" and int(row.path[1]) in placed:
                expected.add((recipe.key, "room"))
        found = of_utterance(world.workspace, row.utt_id).appearances
        used = {
            (appearance.key, appearance.heard_as)
            for appearance in found
            if appearance.simulate == first and appearance.heard_as != "speech"
        }
        assert used == expected, row.utt_id
        ways |= {way for _, way in used}
    assert ways == {"noise", "competing speech", "room"}


def test_what_was_rejected_says_where_and_why(world: World) -> None:
    found = of_utterance(world.workspace, "speech/broken-wav")
    (step,) = found.steps
    assert (step.stage, step.outcome) == ("ingest", "failed")
    assert "broken.wav" in step.detail
    assert not found.appearances
    assert "heard in no mixture" in lineage.utterance_table(found)


def test_the_key_of_a_mixture_finds_its_speech(world: World) -> None:
    recipe = world.recipes()[0]
    assert of_utterance(world.workspace, recipe.key).utt_id == recipe.utt_id


@pytest.mark.parametrize(
    ("asked", "near"), [("u3.flac", "speech/u3-flac"), ("speech/u33-flac", "speech/u3-flac"), ("%%", "ids look like")]
)
def test_an_unknown_id_names_near_ones(world: World, asked: str, near: str) -> None:
    with pytest.raises(UserError, match=near):
        of_utterance(world.workspace, asked)


def test_a_model_is_traced_back_to_ingest(world: World, tmp_path: Path) -> None:
    exported = world.plans["export"].folder
    assert exported is not None
    copy = tmp_path / "copied"
    shutil.copytree(exported / "model", copy)
    found = [of_model(*locate(path, world.folder, STAGES)) for path in (exported, exported / "model", copy)]
    assert found[0] == found[1]
    # A copy is known by its weights: the export is the youngest output that has them.
    assert found[2].output == found[0].output
    made_of = found[0]
    assert [stage.output.stage for stage in made_of.stages] == list(STAGES)
    assert [stage.output.fingerprint for stage in made_of.stages] == [world.plans[name].fingerprint for name in STAGES]
    assert made_of.weights_sha256 == sha256_file(copy / "model.safetensors")
    simulated = world.plans["simulate"].finished
    assert simulated is not None
    assert {shard.shard: shard.sha256 for shard in made_of.shards} == {
        path.name: sha256_file(path) for path in simulated.parts(".tar")
    }
    assert made_of.dataset == DatasetSummary.read(simulated.file("dataset.json"))
    assert any("non-commercial" in use.terms for use in made_of.licences)
    assert made_of.notes == []
    shown = lineage.model_table(made_of)
    for word in (made_of.dataset.digest, "NON-COMMERCIAL", "model.dim = 32", "abc"):
        assert word in shown


def test_the_data_of_earlier_segments_are_part_of_a_models_lineage(world: World, tmp_path: Path) -> None:
    folder = tmp_path / "workspace"
    shutil.copytree(world.folder, folder)
    assert world.second.finished is not None
    trained = folder / "train" / str(world.plans["train"].fingerprint)
    earlier = Segment(to_step=12, dataset=world.second.finished.digest)
    gone = Segment(from_step=12, to_step=18, dataset="0" * 64)
    write_segments(trained / "segments.json", (earlier, gone, Segment(from_step=18, to_step=20)))
    exported = folder / "export" / str(world.plans["export"].fingerprint)
    found = of_model(*locate(exported, folder, STAGES))
    names = [stage.output.name for stage in found.stages]
    assert f"simulate/{world.second.fingerprint}" in names
    assert [line.split(",")[0] for line in found.segments] == ["steps 0 to 12", "steps 12 to 18", "steps 18 to 20"]
    assert any("earlier segment that is gone (digest 000000000000" in note for note in found.notes)
    simulated = world.plans["simulate"].finished
    assert simulated is not None
    assert found.dataset == DatasetSummary.read(simulated.file("dataset.json"))
    shown = lineage.model_table(found)
    assert "segment  steps 0 to 12" in shown


def test_programs_get_all_that_was_recorded(world: World) -> None:
    exported = world.plans["export"].finished
    assert exported is not None
    content = json.loads(lineage.to_json(of_model(*locate(exported.folder, world.folder, STAGES))))
    assert content["output"] == f"export/{exported.folder.name}"
    last = content["stages"][-1]
    record = json.loads((exported.folder / STAGE_RECORD).read_text())
    assert {key: last[key] for key in record if key in last} == {key: record[key] for key in record if key in last}
    assert last.keys() >= {"identity", "books", "digest", "parents", "versions", "seconds", "finished_at"}
    assert last["state"] == "finished"


def test_both_directions_agree(world: World) -> None:
    trained = world.plans["train"].folder
    assert trained is not None
    shards = {shard.shard for shard in of_model(*locate(trained, world.folder, STAGES)).shards}
    splits = {recipe.utt_id: recipe.split for recipe in world.recipes()}
    for utt_id, split in list(splits.items())[::2]:
        found = of_utterance(world.workspace, utt_id)
        assert any(reader.folder == str(trained) for reader in found.readers) == (split != "test")
        first = world.plans["simulate"].fingerprint
        assert {appearance.shard for appearance in found.appearances if appearance.simulate == first} <= shards


def test_licences_of_an_older_dataset_are_rolled_up_afresh(world: World, tmp_path: Path) -> None:
    shutil.copytree(world.folder, tmp_path / "w")
    path = tmp_path / "w" / "simulate" / str(world.plans["simulate"].fingerprint) / "dataset.json"
    about = json.loads(path.read_text())
    stored = about.pop("licences")
    path.write_text(json.dumps(about))
    found = of_model(*locate(path.parent, tmp_path, STAGES))
    assert [use.hours for use in found.licences] == pytest.approx([entry["hours"] for entry in stored])
    assert [(use.use, use.corpus) for use in found.licences] == [(entry["use"], entry["corpus"]) for entry in stored]


def test_what_is_gone_or_begun_is_said(world: World, tmp_path: Path) -> None:
    shutil.copytree(world.folder, tmp_path / "w")
    shutil.rmtree(tmp_path / "w" / "rooms")
    (tmp_path / "w" / "export" / str(world.plans["export"].fingerprint) / STAGE_RECORD).unlink()
    exported = tmp_path / "w" / "export" / str(world.plans["export"].fingerprint)
    notes = of_model(*locate(exported, tmp_path, STAGES)).notes
    assert any("read an output of rooms that is gone" in note for note in notes)
    assert any("begun and is not finished" in note for note in notes)


def test_a_folder_that_is_no_model_is_refused(world: World, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no stage's folder"):
        locate(tmp_path, world.folder, STAGES)
    (tmp_path / "model.safetensors").write_bytes(b"others")
    with pytest.raises(UserError, match="are no output in"):
        locate(tmp_path, world.folder, STAGES)
    with pytest.raises(UserError, match="no stage has run"):
        Workspace(tmp_path, STAGES)


def test_plans_see_the_same_folders(world: World) -> None:
    """Lineage reads records by itself; it must find what the plan finds."""
    names = {output.name for output in world.workspace.outputs}
    assert {f"{name}/{plan.fingerprint}" for name, plan in world.plans.items()} <= names
    now = plan_stage(train, world.config, world.folder, dict(world.plans))
    assert f"train/{now.fingerprint}" in names


@pytest.mark.parametrize("content", ["", "{", "[]"])
def test_a_folder_whose_identity_is_damaged_is_one_line(world: World, tmp_path: Path, content: str) -> None:
    sound = tmp_path / "w" / "rooms" / "4567"
    sound.mkdir(parents=True)
    shutil.copy2(next((world.folder / "rooms").glob("*/identity.json")), sound)
    folder = tmp_path / "w" / "train" / "0123"
    folder.mkdir(parents=True)
    (folder / "identity.json").write_text(content)
    with pytest.raises(UserError, match=r"identity\.json: "):
        locate(folder, tmp_path / "w", STAGES)


def test_what_holds_several_recordings_is_what_holds_each(world: World) -> None:
    workspace, recipes = world.workspace, world.recipes()
    ids = {
        recipes[0].utt_id,
        next(noise for recipe in recipes for noise in recipe.noise_ids),
        next(recipe.competitor_id for recipe in recipes if recipe.competitor_id),
    }
    rows = [row for utt_id in sorted(ids) for row in known_rows(workspace, "utt_id", utt_id).values()]
    assert {row.utt_id for row in rows} == ids
    holders = holders_of(workspace, rows)
    heard = {
        (appearance.simulate, appearance.shard, appearance.key)
        for utt_id in ids
        for appearance in of_utterance(workspace, utt_id).appearances
    }
    assert sum(holders.shards.values()) == len(heard)
    assert {(dataset.partition("/")[2], shard) for dataset, shard in holders.shards} == {
        (fingerprint, shard) for fingerprint, shard, _ in heard
    }
    assert {reader.stage for reader in holders.readers} == {"train", "export"}


def test_what_nobody_heard_is_held_by_nothing(world: World) -> None:
    nobody = Utterance(utt_id="speech/nobody", corpus="speech", kind="speech", path="nobody.flac")
    holders = holders_of(world.workspace, [nobody])
    assert (holders.shards, holders.readers) == ({}, ())
    finished = [plan.finished for plan in (world.plans["simulate"], world.second)]
    assert holders.free == {output.digest for output in finished if output is not None}


def test_a_model_may_be_named_by_its_address(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    exported = world.plans["export"].folder
    assert exported is not None
    asked: list[str] = []

    def find_model(address: str) -> Path:
        asked.append(address)
        return exported / "model"

    monkeypatch.setattr("flowse.hub.find_model", find_model)
    monkeypatch.setattr(lineage.Session, "of", lambda arguments: SimpleNamespace(workspace=world.folder))
    address = "s3://bucket/ws/export/x/model"
    assert lineage.run(argparse.Namespace(utterance=None, model=address, json=False)) == 0
    assert asked == [address]
    by_address = capsys.readouterr().out
    assert lineage.run(argparse.Namespace(utterance=None, model=str(exported), json=False)) == 0
    assert capsys.readouterr().out == by_address
