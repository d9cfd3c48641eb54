"""The doctor finds every planted defect, and none where there is none."""

from __future__ import annotations

import os
import socket
from dataclasses import replace
from pathlib import Path

import pytest
import soundfile
import yaml

from flowse.seeding import generator
from pipelines.__main__ import main
from pipelines.commands.doctor import examine
from pipelines.commands.doctor.finding import Finding, report
from pipelines.engine.resources import Resources
from pipelines.experiment import ClusterConfig, ExperimentConfig
from pipelines.stages.ingest import Config, CorpusConfig

AUDIO = Path(os.environ.get("FLOWSE_AUDIO", Path(__file__).parents[5] / "shared" / "audio"))
CLUSTER = ClusterConfig(num_cpus=4)


def look(config: ExperimentConfig, workspace: Path, cluster: ClusterConfig = CLUSTER) -> list[Finding]:
    return list(examine(config, cluster, workspace))


def alarms(config: ExperimentConfig, workspace: Path, cluster: ClusterConfig = CLUSTER) -> list[str]:
    return [str(finding) for finding in look(config, workspace, cluster) if finding.severity != "ok"]


def test_a_sound_setup_has_no_findings(config: ExperimentConfig, tmp_path: Path) -> None:
    found = look(config, tmp_path / "w")
    assert {finding.severity for finding in found} == {"ok"}
    assert report(found).splitlines()[-1] == "0 errors, 0 warnings"
    assert any("looked at 6 of 6 recordings" in finding.text for finding in found)
    assert list((tmp_path / "w").iterdir()) == []


@pytest.mark.skipif(not (AUDIO / "train").is_dir(), reason=f"no real recordings at {AUDIO}")
def test_real_corpora_raise_no_false_alarm(tmp_path: Path) -> None:
    def corpus(name: str, under: str) -> CorpusConfig:
        return CorpusConfig(name=name, root=str(AUDIO), options={"under": under, "table": "manifest.csv"})

    corpora = Config(speech=(corpus("speech", "train/speech"),), noise=(corpus("noise", "train/noise"),))
    assert alarms(ExperimentConfig(ingest=corpora), tmp_path / "w") == []


def test_each_missing_server_and_model_is_found(config: ExperimentConfig, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    broken = replace(
        config,
        ingest=replace(config.ingest, speech=(CorpusConfig(name="s", root=str(tmp_path / "nowhere")),)),
        transcribe=replace(config.transcribe, model="models/none.pt"),
    )
    cluster = ClusterConfig(mlflow_uri=f"http://127.0.0.1:{port}", ray_address=f"127.0.0.1:{port}")
    found = alarms(broken, tmp_path / "w", cluster)
    for word in ("nowhere", "transcribe.model: Whisper model 'models/none.pt'", "MLflow: http", "Ray: 127"):
        assert sum(word in line for line in found) == 1, (word, found)


def test_recordings_to_enhance_are_looked_at_as_well(config: ExperimentConfig, tmp_path: Path) -> None:
    root = tmp_path / "mine"
    root.mkdir()
    soundfile.write(root / "good.wav", generator(0).normal(0, 0.1, 48_000), 48_000)
    (root / "page.wav").write_bytes(b"<html>not found</html>")
    mine = replace(config, enhance=replace(config.enhance, corpora=(CorpusConfig(name="mine", root=str(root)),)))
    (line,) = alarms(mine, tmp_path / "w")
    assert "enhance.corpora mine" in line
    assert "page.wav" in line
    (line,) = alarms(replace(mine, enhance=replace(mine.enhance, model="nobody")), tmp_path / "w")[:1]
    assert "enhance.model" in line


def test_a_workspace_that_cannot_be_used_is_found(config: ExperimentConfig, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (found,) = alarms(config, tmp_path / "file" / "w")
    assert "ERROR    workspace" in found


def test_stages_that_do_not_fit_the_machine_are_found(config: ExperimentConfig, tmp_path: Path) -> None:
    stages = replace(
        CLUSTER.stages,
        ingest=Resources(num_cpus=9),
        simulate=Resources(workers=8),
        train=Resources(workers=5, num_cpus=1),
    )
    found = alarms(config, tmp_path / "w", replace(CLUSTER, stages=stages))
    assert [line.split(":")[0] for line in found] == [
        "ERROR    cluster.stages.ingest",
        "WARNING  cluster.stages.simulate",
        "ERROR    cluster.stages.train",
    ]


def test_the_command_exits_with_1_if_an_error_was_found(
    config: ExperimentConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def corpus(name: str) -> dict[str, str]:
        return {"name": name, "root": str(tmp_path / name)}

    experiment = {
        "ingest": {"speech": [corpus("speech")], "noise": [corpus("noise")]},
        "rooms": {"train_rooms": 1, "dev_rooms": 1, "test_rooms": 1},
    }
    (tmp_path / "experiment.yaml").write_text(yaml.safe_dump(experiment))
    words = ["doctor", f"--experiment={tmp_path / 'experiment.yaml'}", f"--workspace={tmp_path / 'w'}"]
    words.append("--set=cluster.num_cpus=4")
    assert main(words) == 0
    assert "0 errors, 0 warnings" in capsys.readouterr().out
    (tmp_path / "speech" / "empty.wav").touch()
    assert main(words) == 1
    said = capsys.readouterr().out.splitlines()
    assert said[-1] == "1 error, 0 warnings"
    assert said[-2] == "ERROR    corpus speech: empty_file: empty.wav has no bytes; fetch it again"
