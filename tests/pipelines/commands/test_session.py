"""The session reads both configurations, and says which workspace and which MLflow store are meant."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from flowse.errors import UserError
from pipelines.commands.session import Session, add_arguments
from pipelines.experiment import STAGE_NAMES


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    (tmp_path / "experiment.yaml").write_text("name: small\n")
    (tmp_path / "cluster.yaml").write_text("num_cpus: 2\n")
    return [f"--experiment={tmp_path / 'experiment.yaml'}", f"--cluster={tmp_path / 'cluster.yaml'}"]


def session(*words: str) -> Session:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return Session.of(parser.parse_args(words))


def test_overrides_reach_the_configuration_that_they_name(files: list[str]) -> None:
    started = session(*files, "--set", "train.max_steps=7", "--set", "cluster.retries=5")
    assert (started.config.name, started.config.train.max_steps) == ("small", 7)
    assert (started.cluster.num_cpus, started.cluster.retries) == (2, 5)
    with pytest.raises(UserError, match="did you mean 'train'"):
        session(*files, "--set", "trian.max_steps=7")
    with pytest.raises(UserError, match="write it as key=value"):
        session(*files, "--set", "train.max_steps")


def test_the_workspace_is_that_of_the_command_line_or_the_cluster_or_the_name(files: list[str], tmp_path: Path) -> None:
    cluster = f"--set=cluster.workspace={tmp_path / 'shared'}"
    assert session(*files).workspace == Path("runs/small").resolve()
    assert session(*files, cluster).workspace == tmp_path / "shared"
    assert session(*files, cluster, f"--workspace={tmp_path}/a/../w").workspace == tmp_path / "w"


def test_the_store_is_the_server_or_the_database_of_the_workspace(files: list[str], tmp_path: Path) -> None:
    where = [*files, f"--workspace={tmp_path}"]
    assert session(*where).mlflow_uri == f"sqlite:///{tmp_path}/mlflow.db"
    assert session(*where, "--set=cluster.mlflow_uri=http://mlflow:5000").mlflow_uri == "http://mlflow:5000"


def test_a_stage_that_is_not_fresh_has_no_output(files: list[str], tmp_path: Path) -> None:
    empty = session(*files, f"--workspace={tmp_path}")
    assert {plan.state for plan in empty.plans.values()} == {"missing"}
    assert tuple(empty.plans) == STAGE_NAMES
    with pytest.raises(UserError, match=r"ingest is missing \(has never run in this workspace\); run it first"):
        empty.finished("ingest")
