"""The doctor finds every planted defect, and none where there is none."""

from __future__ import annotations

import os
import socket
import sqlite3
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import pytest
import soundfile
import torch
import yaml

from flowse.metrics.testsets import Pairs
from flowse.seeding import generator
from flowse.whisper.conversion import convert
from pipelines.__main__ import main
from pipelines.commands import doctor
from pipelines.commands.doctor import bytes_needed, examine
from pipelines.commands.doctor.finding import Finding, report
from pipelines.engine.stage import Resources
from pipelines.experiment import ClusterConfig, ExperimentConfig
from pipelines.stages.ingest import Config, CorpusConfig
from pipelines.stages.rooms import Config as RoomsConfig
from tests.tiny import write_whisper

AUDIO = Path(os.environ.get("FLOWSE_AUDIO", Path(__file__).parents[5] / "shared" / "audio"))
RATE = 24_000
CLUSTER = ClusterConfig(num_cpus=4)


def look(config: ExperimentConfig, workspace: Path, cluster: ClusterConfig = CLUSTER) -> list[Finding]:
    return list(examine(config, cluster, workspace))


def alarms(config: ExperimentConfig, workspace: Path, cluster: ClusterConfig = CLUSTER) -> list[str]:
    return [str(one) for one in look(config, workspace, cluster) if one.severity != "ok"]


@pytest.fixture
def config(tmp_path: Path) -> ExperimentConfig:
    """Two clean corpora in real files."""
    for name in ("speech", "noise"):
        (tmp_path / name).mkdir()
        for number in range(6):
            samples = 0.1 * generator(number + 100 * len(name)).standard_normal(RATE)
            soundfile.write(tmp_path / name / f"{number}.flac", samples, RATE)
    corpora = Config(
        speech=(CorpusConfig(name="s", root=str(tmp_path / "speech")),),
        noise=(CorpusConfig(name="n", root=str(tmp_path / "noise")),),
    )
    return ExperimentConfig(ingest=corpora, rooms=RoomsConfig(train_rooms=2, dev_rooms=1, test_rooms=1))


def test_a_sound_setup_has_no_findings(config: ExperimentConfig, tmp_path: Path) -> None:
    found = look(config, tmp_path / "w")
    assert {one.severity for one in found} == {"ok"}
    assert report(found).splitlines()[-1] == "0 errors, 0 warnings"
    assert any("looked at 6 of 6 recordings" in one.text for one in found)
    assert list((tmp_path / "w").iterdir()) == []


@pytest.mark.skipif(not (AUDIO / "train").is_dir(), reason=f"no real recordings at {AUDIO}")
def test_real_corpora_raise_no_false_alarm(tmp_path: Path) -> None:
    def corpus(name: str, under: str) -> CorpusConfig:
        return CorpusConfig(name=name, root=str(AUDIO), options={"under": under, "table": "manifest.csv"})

    corpora = Config(speech=(corpus("speech", "train/speech"),), noise=(corpus("noise", "train/noise"),))
    assert alarms(ExperimentConfig(ingest=corpora), tmp_path / "w") == []


def test_a_ctranslate2_folder_is_sound_for_its_own_backend_only(config: ExperimentConfig, tmp_path: Path) -> None:
    pytest.importorskip("ctranslate2", reason="pip install '.[faster]'")
    convert(write_whisper(tmp_path / "model.pt", audio_ctx=300), tmp_path / "folder")
    folder = str(tmp_path / "folder")
    faster = replace(config, evaluate=replace(config.evaluate, whisper=folder, whisper_backend="faster-whisper"))
    assert alarms(faster, tmp_path / "w") == []
    (alarm,) = alarms(replace(config, evaluate=replace(config.evaluate, whisper=folder)), tmp_path / "w")
    assert "evaluate.whisper" in alarm
    assert "only backend 'faster-whisper' reads" in alarm
    part = replace(faster.evaluate, whisper=str(tmp_path / "folder" / "model.bin"))
    (alarm,) = alarms(replace(faster, evaluate=part), tmp_path / "w")
    assert f"give its folder, {folder}" in alarm


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


def test_another_program_on_the_port_is_no_mlflow(config: ExperimentConfig, tmp_path: Path) -> None:
    import http.server
    import threading

    class Page(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<html>")

        def log_message(self, format: str, *_: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Page) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        cluster = replace(CLUSTER, mlflow_uri=f"http://127.0.0.1:{server.server_port}")
        found = alarms(config, tmp_path / "w", cluster)
        server.shutdown()
    assert len(found) == 1
    assert "another program" in found[0]


def test_files_that_are_no_models_are_found(config: ExperimentConfig, tmp_path: Path) -> None:
    torch.save({"weights": torch.zeros(3)}, tmp_path / "other.pt")
    (tmp_path / "pointer.pt").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    broken = replace(
        config,
        filter_language=replace(config.filter_language, model=str(tmp_path / "other.pt")),
        transcribe=replace(config.transcribe, model=str(tmp_path / "pointer.pt")),
        train=replace(config.train, mel=replace(config.train.mel, hop_length=300)),
    )
    found = alarms(broken, tmp_path / "w")
    assert len(found) == 3, found
    assert "filter_language.model" in found[0]
    assert "no Whisper checkpoint" in found[0]
    assert "transcribe.model" in found[1]
    assert "hop_length: expected 300, the vocoder has 256" in found[2]


def test_test_sets_that_evaluate_would_miss_are_found(config: ExperimentConfig, tmp_path: Path) -> None:
    def alarms_of(noisy: str, clean: str) -> list[str]:
        pairs = (Pairs(name="p", noisy=str(tmp_path / noisy), clean=str(tmp_path / clean)),)
        return alarms(replace(config, evaluate=replace(config.evaluate, pairs=pairs)), tmp_path / "w")

    assert alarms_of("noise", "noise") == []
    (found,) = alarms_of("nowhere", "noise")
    assert "evaluate.pairs p" in found
    assert "nowhere" in found
    (tmp_path / "noise" / "0.flac").write_text("<html>")
    found = "\n".join(alarms_of("noise", "noise"))
    assert "evaluate.pairs p: html_instead_of_audio" in found


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


def test_a_workspace_or_store_that_cannot_be_used_is_found(config: ExperimentConfig, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (found,) = alarms(config, tmp_path / "file" / "w")
    assert "ERROR    workspace" in found
    (tmp_path / "w").mkdir()
    (tmp_path / "w" / "mlflow.db").write_bytes(b"SQLite format 3\0 and rubbish" * 99)
    (found,) = alarms(config, tmp_path / "w")
    assert "mlflow.db" in found
    (tmp_path / "w" / "mlflow.db").unlink()
    store = sqlite3.connect(tmp_path / "w" / "mlflow.db")
    store.execute("create table experiments (id)")
    store.close()
    assert alarms(config, tmp_path / "w") == []


def test_a_disk_too_small_is_an_error_and_a_tight_one_a_warning(
    config: ExperimentConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed = sum(bytes_needed(config, 6.0).values())
    usage = namedtuple("usage", "total used free")
    for share, severity in ((0.9, "ERROR"), (1.1, "WARNING")):
        free = usage(0, 0, int(needed * share))
        monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _, free=free: free)
        (found,) = alarms(config, tmp_path / "w")
        assert found.startswith(f"{severity:<8} disk: about")


def test_needed_bytes_grow_with_speech_and_copies(config: ExperimentConfig) -> None:
    once = bytes_needed(config, 3600.0)
    twice = bytes_needed(config, 7200.0)
    assert twice["mixtures"] == 2 * once["mixtures"]
    assert twice["rooms"] == once["rooms"]
    more = replace(config, simulate=replace(config.simulate, copies=2, eval_copies=2))
    assert bytes_needed(more, 3600.0)["mixtures"] == 2 * once["mixtures"]
    # Two streams of 16-bit PCM at 24 kHz bound it from above.
    assert once["mixtures"] < 3600 * 24_000 * 2 * 2


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
