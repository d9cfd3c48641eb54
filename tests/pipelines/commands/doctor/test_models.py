"""Files that are no models, and test sets that cannot be read, are found before a run needs them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from flowse.metrics.pairs import Pairs
from flowse.whisper.conversion import convert
from pipelines.commands.doctor import models
from pipelines.experiment import ExperimentConfig
from tests.tiny import write_whisper


def alarms(config: ExperimentConfig) -> list[str]:
    findings = (*models.look(config), *models.look_at_test_sets(config))
    return [str(finding) for finding in findings if finding.severity != "ok"]


def test_a_ctranslate2_folder_is_sound_for_its_own_backend_only(config: ExperimentConfig, tmp_path: Path) -> None:
    pytest.importorskip("ctranslate2", reason="pip install '.[faster]'")
    convert(write_whisper(tmp_path / "model.pt", audio_ctx=300), tmp_path / "folder")
    folder = str(tmp_path / "folder")
    faster = replace(config, evaluate=replace(config.evaluate, whisper=folder, whisper_backend="faster-whisper"))
    assert alarms(faster) == []
    (alarm,) = alarms(replace(config, evaluate=replace(config.evaluate, whisper=folder)))
    assert "evaluate.whisper" in alarm
    assert "only backend 'faster-whisper' reads" in alarm
    part = replace(faster.evaluate, whisper=str(tmp_path / "folder" / "model.bin"))
    (alarm,) = alarms(replace(faster, evaluate=part))
    assert f"give its folder, {folder}" in alarm


def test_files_that_are_no_models_are_found(config: ExperimentConfig, tmp_path: Path) -> None:
    torch.save({"weights": torch.zeros(3)}, tmp_path / "other.pt")
    (tmp_path / "pointer.pt").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    broken = replace(
        config,
        filter_language=replace(config.filter_language, model=str(tmp_path / "other.pt")),
        transcribe=replace(config.transcribe, model=str(tmp_path / "pointer.pt")),
        train=replace(config.train, mel=replace(config.train.mel, hop_length=300)),
    )
    found = alarms(broken)
    assert len(found) == 3, found
    assert "filter_language.model" in found[0]
    assert "no Whisper checkpoint" in found[0]
    assert "transcribe.model" in found[1]
    assert "hop_length: expected 300, the vocoder has 256" in found[2]


def test_test_sets_that_evaluate_would_miss_are_found(config: ExperimentConfig, tmp_path: Path) -> None:
    def alarms_of(noisy: str, clean: str) -> list[str]:
        pairs = (Pairs(name="p", noisy=str(tmp_path / noisy), clean=str(tmp_path / clean)),)
        return alarms(replace(config, evaluate=replace(config.evaluate, pairs=pairs)))

    assert alarms_of("noise", "noise") == []
    (found,) = alarms_of("nowhere", "noise")
    assert "evaluate.pairs p" in found
    assert "nowhere" in found
    (tmp_path / "noise" / "0.flac").write_text("<html>")
    found = "\n".join(alarms_of("noise", "noise"))
    assert "evaluate.pairs p: html_instead_of_audio" in found


def test_small_embedded_models_that_would_judge_a_large_training_are_named(config: ExperimentConfig) -> None:
    large = replace(config, train=replace(config.train, max_steps=1_200_000))
    found = alarms(large)
    assert [line.split()[1].rstrip(":") for line in found] == [
        "filter_language.model",
        "transcribe.model",
        "evaluate.whisper",
        "evaluate.vocoder",
    ]
    assert "whisper-tiny, a small model for demos and tests, judges a training of 1,200,000 steps" in found[2]
    assert all(line.startswith("WARNING") for line in found)
