"""The doctor finds every planted defect, and none where there is none."""

from __future__ import annotations

import socket
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from pipelines.config import ClusterConfig, ExperimentConfig
from pipelines.doctor import examine
from pipelines.ingest import Config, CorpusConfig

TONE = np.sin(np.arange(16000) / 5) / 2


def bad(config: ExperimentConfig, workspace: Path, cluster: ClusterConfig | None = None) -> list[str]:
    return [one.text for one in examine(config, cluster or ClusterConfig(), workspace) if not one.sound]


@pytest.fixture
def config(tmp_path: Path) -> ExperimentConfig:
    (tmp_path / "speech").mkdir()
    soundfile.write(tmp_path / "speech" / "good.wav", TONE, 16000)
    corpora = Config(speech=(CorpusConfig(name="s", root=str(tmp_path / "speech")),))
    return ExperimentConfig(ingest=corpora)


def test_a_sound_setup_has_no_findings(config: ExperimentConfig, tmp_path: Path) -> None:
    assert bad(config, tmp_path / "w") == []


def test_each_planted_defect_is_found_by_name(config: ExperimentConfig, tmp_path: Path) -> None:
    speech = tmp_path / "speech"
    (speech / "empty.wav").touch()
    (speech / "pointer.wav").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    (speech / "page.flac").write_text("<!doctype html><html></html>")
    (speech / "cut.wav").write_bytes((speech / "good.wav").read_bytes()[:9000])
    (speech / "Good.wav").write_bytes((speech / "good.wav").read_bytes())
    found = "\n".join(bad(config, tmp_path / "w"))
    for word in ("empty_file", "git_lfs_pointer", "html_instead_of_audio", "truncated", "1 repeated ids", "4 bad"):
        assert word in found


def test_missing_folders_models_and_servers_are_found(config: ExperimentConfig, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    broken = replace(
        config,
        ingest=Config(speech=(CorpusConfig(name="s", root=str(tmp_path / "nowhere")),)),
        transcribe=replace(config.transcribe, model="models/none.pt"),
    )
    cluster = ClusterConfig(mlflow_uri=f"http://127.0.0.1:{port}", ray_address=f"127.0.0.1:{port}")
    found = bad(broken, tmp_path / "w", cluster)
    for word in ("nowhere", "transcribe.model: 'models/none.pt'", "MLflow: http", "Ray: 127"):
        assert sum(word in line for line in found) == 1, word
