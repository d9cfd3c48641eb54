"""The cost preview: it measures by the stages' own workers, bounds what it does not know, and writes nothing."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from pipelines.commands.preview import Preview, capacity
from pipelines.commands.preview.cost import Cost
from pipelines.commands.preview.recorded import recorded_rate
from pipelines.engine.accounts import StageReport
from pipelines.engine.plan import StagePlan, plan
from pipelines.engine.resources import Capacity, Node, Resources
from pipelines.experiment import ClusterConfig, ExperimentConfig, StageResources
from pipelines.stages import evaluate, export, filter_language, ingest, quality, rooms, simulate, train, transcribe
from tests.pipelines.small_workspace import run_data_stages

STAGES = (ingest, rooms, quality, filter_language, transcribe, simulate, train, evaluate, export)
CAPACITY = Capacity((Node(4.0),))


@dataclass(frozen=True)
class World:
    folder: Path
    config: ExperimentConfig
    plans: dict[str, StagePlan]

    def report(self, name: str) -> StageReport:
        finished = self.plans[name].finished
        assert finished is not None
        return finished.report


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder, config, plans = run_data_stages(tmp_path_factory.mktemp("preview"))
    # No recogniser: it takes longer to load than all else together.
    scored = replace(config.evaluate, whisper="", max_items=1, sampling=replace(config.evaluate.sampling, steps=1))
    config = replace(config, evaluate=scored)
    return World(folder, config, plans)


def costs(world: World, workspace: Path, *running: str) -> dict[str, Cost]:
    plans = plan(STAGES, world.config, workspace)
    names = running or tuple(name for name, plan in plans.items() if plan.finished is None)
    found = Preview(world.config, ClusterConfig(), workspace, CAPACITY).costs(STAGES, plans, names)
    return {cost.stage: cost for cost in found}


def listing(folder: Path) -> dict[str, tuple[int, int]]:
    found = {}
    for path in folder.rglob("*"):
        stat = path.stat()
        found[str(path)] = (stat.st_size, stat.st_mtime_ns)
    return found


@pytest.fixture(scope="module")
def fresh(world: World, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Cost]:
    """The preview of a workspace in which nothing has run."""
    workspace = tmp_path_factory.mktemp("none") / "w"
    found = costs(world, workspace)
    assert not workspace.exists()
    return found


def test_a_new_workspace_is_previewed_to_the_end(fresh: dict[str, Cost]) -> None:
    assert list(fresh) == [stage.NAME for stage in STAGES]
    for name, cost in fresh.items():
        if name == "export":
            assert cost.wall_s is None
            assert cost.source.startswith("unknown")
        else:
            assert cost.wall_s is not None, cost
            assert cost.wall_s > 0
            assert cost.bytes is not None
            assert cost.bytes > 0


def test_what_is_said_of_a_new_workspace_bounds_what_then_happens(world: World, fresh: dict[str, Cost]) -> None:
    for name in ("ingest", "rooms", "quality", "filter_language", "transcribe", "simulate"):
        said, real = fresh[name], world.report(name).taken
        assert said.taken is not None
        assert said.at_most == (name in ("quality", "filter_language", "transcribe", "simulate"))
        if said.at_most:
            assert said.taken.utterances >= real.utterances, name
            assert said.taken.seconds >= real.seconds * 0.99, name
            assert said.taken.seconds <= real.seconds * 1.6, name
        else:
            assert said.taken.utterances == real.utterances, name
            assert said.taken.seconds == pytest.approx(real.seconds, rel=0.1), name


def test_with_finished_inputs_hours_are_exact_and_nothing_is_written(world: World) -> None:
    before = listing(world.folder)
    found = costs(world, world.folder, "transcribe", "simulate", "train")
    assert listing(world.folder) == before
    assert found["transcribe"].taken == world.report("transcribe").taken
    assert not found["transcribe"].at_most
    only = costs(world, world.folder, "simulate")["simulate"]
    real = world.report("simulate")
    assert only.taken is not None
    assert only.taken.utterances == real.taken.utterances
    assert only.taken.seconds == pytest.approx(real.taken.seconds)
    assert only.bytes == pytest.approx(real.metrics["bytes"], rel=0.4)
    assert only.workers == 4


def test_a_stage_without_anything_to_read_is_unknown_and_says_so(world: World, tmp_path: Path) -> None:
    (cost,) = costs(world, tmp_path / "w", "simulate").values()
    assert cost.wall_s is None
    assert cost.source == "unknown: nothing of ingest to try it on"


def test_what_cannot_be_tried_is_unknown_with_the_reason(world: World, tmp_path: Path) -> None:
    missing = replace(world.config, transcribe=replace(world.config.transcribe, model="models/none.pt"))
    plans = plan(STAGES, missing, world.folder)
    (cost,) = Preview(missing, ClusterConfig(), world.folder, CAPACITY).costs(STAGES, plans, ["transcribe"])
    assert cost.wall_s is None
    assert "models/none.pt" in cost.source


def test_the_recorded_rate_is_used_and_named(world: World, tmp_path: Path) -> None:
    found = costs(world, world.folder, "simulate")["simulate"]
    assert found.source.startswith("the run of ")
    plan = world.plans["simulate"]
    rate = recorded_rate(world.folder, "simulate", plan.identity)
    assert rate is not None
    assert found.taken is not None
    assert found.wall_s == pytest.approx(found.taken.seconds / rate[0])


@pytest.mark.parametrize(
    ("found", "asked", "expected"),
    [(CAPACITY, Resources(workers=9), 4), (None, Resources(workers=7), 7), (None, Resources(), None)],
    ids=["a cluster", "no answer", "no answer and no number"],
)
def test_workers_at_once_are_those_that_fit_as_far_as_is_known(
    tmp_path: Path, found: Capacity | None, asked: Resources, expected: int | None
) -> None:
    cluster = ClusterConfig(stages=StageResources(simulate=asked))
    assert Preview(ExperimentConfig(), cluster, tmp_path, found)._workers(asked, None) == expected
    alone = replace(cluster, backend="local")
    assert Preview(ExperimentConfig(), alone, tmp_path, found)._workers(asked, None) == 1


def test_capacity_of_this_machine() -> None:
    found = capacity(ClusterConfig(num_cpus=3))
    assert found is not None
    assert found.cores == 3.0
