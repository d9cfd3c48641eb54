"""The doctor's law: of thirty and more planted defects in corpora, models and surroundings, it names every one."""

from __future__ import annotations

import dataclasses
import os
import shutil
import socket
from collections import namedtuple
from pathlib import Path

import pytest
import soundfile

from flowse.metrics.pairs import Pairs
from flowse.seeding import generator
from pipelines.commands.doctor import examine
from pipelines.corpora.config import CorpusConfig
from pipelines.experiment import ClusterConfig, ExperimentConfig
from pipelines.stages import evaluate, filter_language, ingest, rooms, train, transcribe
from tests.pipelines.bad_files import plant

RATE = 24_000
CLUSTER = ClusterConfig(backend="local")
Usage = namedtuple("Usage", "total used free")


def sound(path: Path, number: int, rate: int = RATE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, 0.1 * generator(number).standard_normal(rate), rate)


def lines(config: ExperimentConfig, cluster: ClusterConfig, workspace: Path) -> list[str]:
    return [str(finding) for finding in examine(config, cluster, workspace) if finding.severity != "ok"]


def closed_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
    return port


def damaged_models(root: Path) -> None:
    """Write files in the places of models: a web page, a Git-LFS pointer, and an empty folder."""
    (root / "page.pt").write_text("<html>404</html>")
    (root / "pointer.onnx").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    (root / "no_model_bin").mkdir()
    (root / "vocoder").mkdir()


@pytest.fixture
def broken(tmp_path: Path) -> tuple[ExperimentConfig, dict[str, str]]:
    """An experiment with a defect wherever there can be one, and what a line about each has to hold, by its name."""
    expected = {name[:100]: name[:60] for name in plant(tmp_path / "speech")}
    for number in range(4):
        sound(tmp_path / "noise" / f"{number}.flac", number)
    shutil.copy2(tmp_path / "noise" / "0.flac", tmp_path / "noise" / "copy.flac")
    sound(tmp_path / "telephone" / "a.wav", 10, 8000)
    (tmp_path / "table" / "t.csv").parent.mkdir()
    sound(tmp_path / "table" / "x.wav", 11)
    (tmp_path / "table" / "t.csv").write_text("path,text\nx.wav,hello, world\n")
    (tmp_path / "archive").mkdir()
    sound(tmp_path / "archive" / "y.wav", 12)
    (tmp_path / "archive" / "more.zip").write_bytes(b"PK\x03\x04 cut short")
    (tmp_path / "nothing").mkdir()
    sound(tmp_path / "pairs" / "noisy" / "z.wav", 13)
    (tmp_path / "pairs" / "clean").mkdir()
    damaged_models(tmp_path)
    expected |= {
        "the same bytes twice": "0.flac = copy.flac|copy.flac = 0.flac",
        "telephone speech": "8,000 Hz or less",
        "an unquoted comma": "t.csv, line 2",
        "an archive cut short": "more.zip",
        "an empty corpus": "nothing",
        "a root that is not there": "gone",
        "a noisy recording without a clean one": "evaluate.pairs p",
        "a language model that is a web page": "filter_language.model",
        "a model that is not there": "transcribe.model",
        "a folder without model.bin": "evaluate.whisper",
        "a vocoder without files": "evaluate.vocoder",
        "an encoder that is a pointer": "evaluate.speaker",
        "a start that is not there": "train.init_from",
    }
    speech = tuple(
        CorpusConfig(name=name, root=str(tmp_path / name), options={"table": table} if table else {})
        for name, table in (
            ("speech", "table.csv"), ("telephone", ""), ("table", "t.csv"), ("archive", ""),
            ("nothing", ""), ("gone", ""),
        )
    )  # fmt: skip
    config = ExperimentConfig(
        ingest=ingest.Config(speech=speech, noise=(CorpusConfig(name="noise", root=str(tmp_path / "noise")),)),
        rooms=rooms.Config(train_rooms=2, dev_rooms=1, test_rooms=1),
        filter_language=filter_language.Config(model=str(tmp_path / "page.pt")),
        transcribe=transcribe.Config(model=str(tmp_path / "absent.pt")),
        train=train.Config(init_from=str(tmp_path / "absent_model")),
        evaluate=evaluate.Config(
            whisper=str(tmp_path / "no_model_bin"),
            whisper_backend="faster-whisper",
            vocoder=str(tmp_path / "vocoder"),
            speaker=str(tmp_path / "pointer.onnx"),
            pairs=(Pairs(name="p", noisy=str(tmp_path / "pairs" / "noisy"), clean=str(tmp_path / "pairs" / "clean")),),
        ),
    )
    return config, expected


def test_every_planted_defect_is_named(
    broken: tuple[ExperimentConfig, dict[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, expected = broken
    workspace = tmp_path / "w"
    workspace.mkdir()
    (workspace / "mlflow.db").write_text("no database")
    monkeypatch.setattr("pipelines.commands.doctor.recordings._NAMED", 50)
    monkeypatch.setattr("shutil.disk_usage", lambda _: Usage(1, 1, 1000))
    expected |= {"a full disk": "are free in", "a database that is none": "mlflow.db"}
    said = lines(config, CLUSTER, workspace)
    missed = {
        name for name, held in expected.items() if not any(part in line for part in held.split("|") for line in said)
    }
    assert missed == set()
    assert len(expected) >= 40
    assert all("\n" not in line and "Traceback" not in line for line in said)
    assert not [line for line in said if any(good in line.split(": ")[1:2] for good in ("good_b.flac", "good_c.ogg"))]


def test_servers_that_do_not_answer_are_named(tmp_path: Path) -> None:
    config = ExperimentConfig()
    cluster = dataclasses.replace(
        CLUSTER,
        backend="ray",
        ray_address=f"127.0.0.1:{closed_port()}",
        mlflow_uri=f"http://127.0.0.1:{closed_port()}",
    )
    said = lines(config, cluster, tmp_path)
    assert any(line.startswith("ERROR    Ray: 127.0.0.1:") and "cannot be reached" in line for line in said)
    assert any(line.startswith("ERROR    MLflow: http://127.0.0.1:") for line in said)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_recording_that_may_not_be_read_is_named(tmp_path: Path) -> None:
    sound(tmp_path / "speech" / "a.wav", 1)
    (tmp_path / "speech" / "a.wav").chmod(0)
    corpus = CorpusConfig(name="c", root=str(tmp_path / "speech"))
    said = lines(ExperimentConfig(ingest=ingest.Config(speech=(corpus,))), CLUSTER, tmp_path / "w")
    assert any("a.wav" in line and "Permission denied" in line for line in said)
