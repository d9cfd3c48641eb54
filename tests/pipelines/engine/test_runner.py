"""Laws of a run: with Ray and without the data stages write the same bytes; what a person must mend is one line."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from flowse.errors import UserError
from pipelines.engine.cluster import BackendName
from pipelines.engine.plan import StagePlan
from pipelines.engine.runner import Runner
from pipelines.engine.tracking import Experiment
from pipelines.experiment import ClusterConfig, ExperimentConfig
from pipelines.stages.ingest import corpus_roots
from tests.pipelines.small_workspace import DATA_STAGES, small_config, write_corpora

NAMES = [stage.NAME for stage in DATA_STAGES]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> ExperimentConfig:
    root = tmp_path_factory.mktemp("corpora")
    write_corpora(root)
    return small_config(root)


def runner(config: ExperimentConfig, workspace: Path, backend: BackendName = "local", **options: float) -> Runner:
    cluster = ClusterConfig(backend=backend, num_cpus=2, **options)  # type: ignore[arg-type]
    return Runner(DATA_STAGES, config, cluster, workspace, corpus_roots(config.ingest, workspace / "made"))


def files_of(plans: dict[str, StagePlan]) -> dict[str, bytes]:
    """Every file of every stage, without the records, which hold times."""
    found = {}
    for name, plan in plans.items():
        assert plan.finished is not None
        folder = plan.finished.folder
        for file in (*plan.finished.record.files, *(f"../units/{file}" for file in plan.finished.table.file_names())):
            found[f"{name}/{folder.name}/{file}"] = (folder / file).read_bytes()
    return found


def test_a_run_without_ray_writes_the_bytes_of_a_run_on_ray(config: ExperimentConfig, tmp_path: Path) -> None:
    here = files_of(runner(config, tmp_path / "here").run(NAMES, force=False))
    on_ray = files_of(runner(config, tmp_path / "ray", "ray").run(NAMES, force=False))
    assert here.keys() == on_ray.keys()
    assert [name for name in here if here[name] != on_ray[name]] == []
    assert len(here) > 3 * len(NAMES)


def test_what_is_fresh_is_not_done_again_unless_forced(
    config: ExperimentConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = runner(config, tmp_path).run(["ingest"], force=False)["ingest"]
    capsys.readouterr()
    again = runner(config, tmp_path).run(["ingest"], force=False)["ingest"]
    assert capsys.readouterr().out.split() == ["ingest", "fresh"]
    assert first == again
    forced = runner(config, tmp_path).run(["ingest"], force=True)["ingest"]
    assert forced.finished is not None
    assert first.finished is not None
    assert forced.finished.digest == first.finished.digest
    assert "forced" in capsys.readouterr().out


def test_a_stage_whose_input_is_missing_names_the_command(config: ExperimentConfig, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"transcribe cannot run: it reads filter_language.*use `run ..transcribe`"):
        runner(config, tmp_path).run(["transcribe"], force=False)


def test_a_stage_with_too_many_failures_is_not_committed_and_looks_at_them_again(
    config: ExperimentConfig, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"ingest is not committed: 1 of 13 utterances of speech failed \(\w+ 1\)"):
        runner(config, tmp_path, max_failed_fraction=0.0).run(["ingest"], force=False)
    plan = runner(config, tmp_path).run([], force=False)["ingest"]
    assert plan.state == "incomplete"
    assert runner(config, tmp_path).run(["ingest"], force=False)["ingest"].state == "fresh"


def test_a_run_that_does_nothing_opens_no_mlflow(config: ExperimentConfig, tmp_path: Path) -> None:
    run = runner(replace(config, seed=3), tmp_path)
    run.run([], force=False)
    assert isinstance(run.experiment, Experiment)
    assert not (tmp_path / "mlflow.db").exists()
