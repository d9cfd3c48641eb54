"""The session reads both configurations, and says which workspace and which MLflow store are meant."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from flowse.errors import UserError
from pipelines.__main__ import main
from pipelines.commands.session import Session, add_arguments, pairs_of
from pipelines.corpora import folder
from pipelines.engine.last_listing import NOT_LISTED
from pipelines.experiment import STAGE_NAMES


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    (tmp_path / "experiment.yaml").write_text("name: small\n")
    (tmp_path / "cluster.yaml").write_text("num_cpus: 2\n")
    return [f"--experiment={tmp_path / 'experiment.yaml'}", f"--cluster={tmp_path / 'cluster.yaml'}"]


def session(*words: str, looks: bool = False) -> Session:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return Session.of(parser.parse_args(words), looks=looks)


def test_overrides_reach_the_configuration_that_they_name(files: list[str]) -> None:
    started = session(*files, "--set", "train.max_steps=7", "--set", "cluster.retries=5")
    assert (started.config.name, started.config.train.max_steps) == ("small", 7)
    assert (started.cluster.num_cpus, started.cluster.retries) == (2, 5)
    with pytest.raises(UserError, match="did you mean 'train'"):
        session(*files, "--set", "trian.max_steps=7")
    with pytest.raises(UserError, match="write it as key=value"):
        session(*files, "--set", "train.max_steps")


@pytest.mark.parametrize(
    ("line", "pairs"),
    [
        ("train.max_steps=7 seed=2", ["train.max_steps=7", "seed=2"]),
        ("", []),
        ("  seed=2  ", ["seed=2"]),
        ("export.title=A quiet room seed=2", ["export.title=A quiet room", "seed=2"]),
        ("ingest.speech[0].root=/my data seed=2", ["ingest.speech[0].root=/my data", "seed=2"]),
        ('evaluate.pairs=[{"name": "a b=c"}] seed=2', ['evaluate.pairs=[{"name": "a b=c"}]', "seed=2"]),
        ("export.title=it's seed=2", ["export.title=it's", "seed=2"]),
        ("seed 2", ["seed 2"]),
    ],
)  # fmt: skip
def test_a_line_of_pairs_is_split_before_every_key(line: str, pairs: list[str]) -> None:
    assert pairs_of(line) == pairs


def test_pairs_follow_those_that_are_given_one_by_one(files: list[str]) -> None:
    started = session(*files, "--set", "seed=1", "--set-all", "train.max_steps=7 seed=2")
    assert (started.config.train.max_steps, started.config.seed) == (7, 2)
    assert session(*files).config.seed != 2


def test_the_workspace_is_that_of_the_command_line_or_the_cluster_or_the_name(files: list[str], tmp_path: Path) -> None:
    cluster = f"--set=cluster.workspace={tmp_path / 'shared'}"
    assert session(*files).workspace == Path("runs/small").resolve()
    assert session(*files, cluster).workspace == tmp_path / "shared"
    assert session(*files, cluster, f"--workspace={tmp_path}/a/../w").workspace == tmp_path / "w"


@pytest.mark.parametrize("key", ["--workspace", "cluster.workspace"])
def test_a_url_of_no_store_is_no_workspace_and_nothing_is_written(
    key: str, files: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    for url, mend in (("ftp://host/ws", "bucket/prefix"), ("s3:/bucket/ws", "bucket/ws"), (" s3://", "bucket/prefix")):
        with pytest.raises(UserError, match=rf"{key}: {url.strip()}: not the URL of a store; write s3://{mend}"):
            session(*files, f"{key}={url}" if key.startswith("--") else f"--set={key}={url}")
    assert sorted(tmp_path.rglob("*")) == before


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


def test_only_a_session_that_looks_walks_the_corpora_and_the_others_say_what_they_show(
    files: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "speech").mkdir()
    (tmp_path / "speech" / "x.wav").write_bytes(b"RIFF")
    (tmp_path / "experiment.yaml").write_text(
        f"name: small\ningest: {{speech: [{{name: c, root: '{tmp_path / 'speech'}'}}]}}\n"
    )
    words = [*files, f"--workspace={tmp_path / 'w'}"]
    key = "content of c"
    first = session(*words)
    assert first.plans["ingest"].identity.settings[key] == NOT_LISTED
    assert first.listing.unknown
    looking = session(*words, looks=True)
    seen = looking.plans["ingest"].identity.settings[key]
    assert len(seen) == 64
    looking.listing.save()
    (tmp_path / "speech" / "y.wav").write_bytes(b"RIFF")
    with monkeypatch.context() as patch:
        patch.setattr(folder, "listing_digest", lambda *_: pytest.fail("the corpus was walked"))
        later = session(*words)
        assert later.plans["ingest"].identity.settings[key] == seen
        assert "are shown as they were at" in later.listing.note()
    assert session(*words, looks=True).plans["ingest"].identity.settings[key] not in (seen, NOT_LISTED)


def test_nothing_is_deleted_while_it_is_not_known_what_is_needed(
    files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "experiment.yaml").write_text(
        f"name: small\ningest: {{speech: [{{name: c, root: '{tmp_path / 'speech'}'}}]}}\n"
    )
    words = [*files, f"--workspace={tmp_path / 'w'}"]
    assert main(["gc", *words]) == 2
    assert "corpora have not been listed in this workspace: `run ..ingest` lists them" in capsys.readouterr().err
    for command in (["status"], ["explain", "ingest"]):
        assert main([*command, *words]) == 0
        assert "the corpora have not been listed in this workspace yet; `run` lists them" in capsys.readouterr().out
