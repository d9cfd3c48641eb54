"""MLflow tracking against a real sqlite store: what is logged is there, and a broken store is one clear line."""

from __future__ import annotations

import getpass
import json
from pathlib import Path
from types import SimpleNamespace

import mlflow
import pytest
import sqlalchemy
from mlflow import MlflowClient

from flowse.errors import UserError
from pipelines.engine.store import Store
from pipelines.engine.tracking import Dataset, Experiment, StageRun, attach, default_uri, run_name
from tests.pipelines.engine.s3 import KEYS, s3_server


def test_a_stage_is_a_nested_run_with_all_that_was_logged(tmp_path: Path) -> None:
    experiment = Experiment(default_uri(tmp_path), "e", tmp_path, {"code_commit": "abc"})
    (tmp_path / "note.txt").write_text("hello")
    with experiment, experiment.stage("simulate", {"fingerprint": "f"}) as run:
        run.params({"mixture.snr": "x" * 10_000})
        run.metrics({"dropped/too short: 1": 2.0}, step=3)
        run.tags({"dataset_digest": "d"})
        run.artifact(tmp_path / "note.txt")
    client = mlflow.MlflowClient(default_uri(tmp_path))
    found = client.get_run(run.run_id)
    parent = client.get_run(found.data.tags["mlflow.parentRunId"])
    assert (found.info.status, parent.info.status) == ("FINISHED", "FINISHED")
    assert found.data.tags["code_commit"] == "abc"
    assert found.data.tags["fingerprint"] == "f"
    assert found.data.metrics == {"dropped/too short_ 1": 2.0}
    assert [artifact.path for artifact in client.list_artifacts(found.info.run_id)] == ["note.txt"]


@pytest.mark.parametrize(("error", "status"), [(RuntimeError, "FAILED"), (KeyboardInterrupt, "KILLED")])
def test_a_stage_that_fails_and_the_run_around_it_are_marked_so(
    tmp_path: Path, error: type[BaseException], status: str
) -> None:
    experiment = Experiment(default_uri(tmp_path), "e", tmp_path, {})
    seen: list[StageRun] = []

    def fail() -> None:
        with experiment, experiment.stage("train", {}) as run:
            seen.append(run)
            raise error

    with pytest.raises(error):
        fail()
    client = mlflow.MlflowClient(default_uri(tmp_path))
    found = client.get_run(seen[0].run_id)
    parent = client.get_run(found.data.tags["mlflow.parentRunId"])
    assert (found.info.status, parent.info.status) == (status, status)


def test_a_store_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    experiment = Experiment("sqlite:////proc/none/mlflow.db", "e", tmp_path, {})
    with pytest.raises(UserError, match="mend the store"), experiment.stage("ingest", {}):
        pass


def test_files_can_be_attached_to_runs_that_have_ended(tmp_path: Path) -> None:
    experiment = Experiment(default_uri(tmp_path), "e", tmp_path, {})
    experiment.artifact(tmp_path / "none.txt")  # nothing ran: there is no run, and nothing to say
    with experiment, experiment.stage("simulate", {}) as run:
        pass
    (tmp_path / "page.html").write_text("<p>")
    assert run.run_id is not None
    attach(default_uri(tmp_path), run.run_id, tmp_path / "page.html", "listen")
    experiment.artifact(tmp_path / "page.html")
    client = mlflow.MlflowClient(default_uri(tmp_path))
    assert [artifact.path for artifact in client.list_artifacts(run.run_id, "listen")] == ["listen/page.html"]
    parent = client.get_run(run.run_id).data.tags["mlflow.parentRunId"]
    assert [artifact.path for artifact in client.list_artifacts(parent)] == ["page.html"]
    with pytest.raises(UserError, match="MLflow at"):
        attach(default_uri(tmp_path), "0" * 32, tmp_path / "page.html", "listen")


@pytest.mark.parametrize("name", ["with space", "50%", "team%2Fmain", "what?x=y", "a?mode=memory", "n#1", "ü"])
def test_the_store_lies_in_the_workspace_whatever_its_path_holds(tmp_path: Path, name: str) -> None:
    workspace = tmp_path / name
    workspace.mkdir()
    engine = sqlalchemy.create_engine(default_uri(workspace))
    with engine.begin() as connection:
        connection.execute(sqlalchemy.text("create table t (a int)"))
    engine.dispose()
    assert [path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file()] == [Path(name, "mlflow.db")]


def test_a_deleted_experiment_is_named_with_the_command_that_restores_it(tmp_path: Path) -> None:
    uri = default_uri(tmp_path)
    with Experiment(uri, "gone", tmp_path, {}) as experiment, experiment.stage("ingest", {}):
        pass
    client = MlflowClient(uri)
    number = client.get_experiment_by_name("gone").experiment_id
    client.delete_experiment(number)
    with (
        pytest.raises(UserError, match=rf"'gone' was deleted; restore it .*--experiment-id {number}"),
        Experiment(uri, "gone", tmp_path, {}) as experiment,
        experiment.stage("ingest", {}),
    ):
        pass


def test_artifacts_go_to_a_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "page.html").write_text("heard")
    with s3_server() as address:
        for key, value in (KEYS | {"AWS_ENDPOINT_URL": address}).items():
            monkeypatch.setenv(key, value)
        place = "s3://bucket/mlflow"
        experiment = Experiment(default_uri(tmp_path), "my e", tmp_path, {}, place)
        with experiment, experiment.stage("ingest", {}) as run:
            run.artifact(tmp_path / "page.html")
        store = Store(place)
        assert [store.get(name) for name in store.list() if name.endswith("/artifacts/page.html")] == [b"heard"]
        assert all(name.startswith("my%20e/") for name in store.list())
        nowhere = Experiment(default_uri(tmp_path), "other", tmp_path, {}, "s3://nowhere/x")
        with (
            pytest.raises(UserError, match=r"MLflow's artifacts: .*NoSuchBucket") as caught,
            nowhere,
            nowhere.stage("ingest", {}) as run,
        ):
            run.artifact(tmp_path / "page.html")
        assert "\n" not in str(caught.value)


def test_an_experiment_keeps_its_place_for_artifacts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for artifacts in ("", "s3://bucket/mlflow"):
        experiment = Experiment(default_uri(tmp_path), "e", tmp_path, {}, artifacts)
        with experiment, experiment.stage("ingest", {}):
            pass
    assert "where it began; cluster.mlflow_artifacts is for new experiments" in capsys.readouterr().out


def test_two_runs_compare_in_the_list_by_name_changes_scores_and_dataset(tmp_path: Path) -> None:
    uri, data = default_uri(tmp_path), Dataset("e/simulate", "d" * 64, tmp_path, 7, 0.5)
    for steps, score in (("100", 0.25), ("200", 0.5)):
        experiment = Experiment(
            uri, "e", tmp_path, {}, changes=[f"train.max_steps={steps}", "evaluate.pairs=[{name: a=b}]"],
            command="python -m pipelines run", commit="abc",
        )  # fmt: skip
        with experiment:
            experiment.headline({"DNSMOS gain": score})  # of a fresh stage, before there is a run
            experiment.reads(data, "train")
            with experiment.stage("train", {}) as run:
                run.reads([data], "train")
            experiment.reads(data, "train")  # once is enough
            experiment.reads(data, "evaluate")
            experiment.headline({"WER": 0.1, "ESTOI": float("nan")})
    runs = MlflowClient(uri).search_runs(["1"], order_by=["metrics.`DNSMOS gain` DESC"])
    best, second = (run for run in runs if "mlflow.parentRunId" not in run.data.tags)
    assert best.info.run_name == "e: train.max_steps=200, evaluate.pairs=[{name: a=b}]"
    assert best.data.params == {"train.max_steps": "200", "evaluate.pairs": "[{name: a=b}]"}
    assert second.data.metrics == {"DNSMOS gain": 0.25, "WER": 0.1}
    read = [(item.dataset.digest, item.tags[0].value) for item in best.inputs.dataset_inputs]
    assert read == [("d" * 16, "train")]  # MLflow lists a dataset once a run
    tags = best.data.tags
    assert tags["mlflow.source.git.commit"] == "abc"
    assert tags["mlflow.source.name"] == "python -m pipelines"
    assert tags["mlflow.user"] == getpass.getuser()
    assert tags["command"] == "python -m pipelines run"
    (nested,) = (run for run in runs if run.data.tags.get("mlflow.parentRunId") == best.info.run_id)
    assert nested.inputs.dataset_inputs[0].dataset.name == "e/simulate"
    assert json.loads(nested.inputs.dataset_inputs[0].dataset.profile) == {"utterances": 7, "hours": 0.5}


def test_a_run_without_changes_is_named_after_its_experiment_and_no_name_is_too_long() -> None:
    assert run_name("demo", []) == "demo"
    assert run_name("demo", ["seed=2"]) == "demo: seed=2"
    assert len(run_name("demo", ["key=" + "x" * 1000])) == 200


def test_the_experiment_is_of_the_kind_whose_runs_the_ui_opens_unless_a_person_chose_another(tmp_path: Path) -> None:
    uri = default_uri(tmp_path)
    client = MlflowClient(uri)
    for name, before, after in (
        ("new", None, "custom_model_development"),
        ("old", {}, "custom_model_development"),
        ("chosen", {"mlflow.experimentKind": "genai_development"}, "genai_development"),
    ):
        if before is not None:
            client.create_experiment(name, tags=before)
        with Experiment(uri, name, tmp_path, {}) as experiment, experiment.stage("ingest", {}):
            pass
        assert client.get_experiment_by_name(name).tags["mlflow.experimentKind"] == after


def test_values_go_out_in_few_calls(tmp_path: Path) -> None:
    with Experiment(default_uri(tmp_path), "e", tmp_path, {}) as experiment, experiment.stage("train", {}) as run:
        calls: list[str] = []
        client, run._client = (
            run._client,
            SimpleNamespace(
                log_batch=lambda run_id, **listed: (calls.append(*listed), client.log_batch(run_id, **listed))
            ),
        )
        run.params({f"key.{number}": number for number in range(250)})
        run.metrics({f"metric/{number}": float(number) for number in range(50)})
        run.tags({"a": "1", "b": "2"})
        run.metrics({"bad": float("inf")})
        run.params({})
        run._client = client
    assert calls == ["params", "params", "params", "metrics", "tags"]
    found = client.get_run(run.run_id).data
    assert (len(found.params), len(found.metrics), found.tags["b"]) == (250, 50, "2")
