"""The fingerprints of the shipped experiments are pinned: moving or renaming code makes no finished work stale."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines import corpora
from pipelines.engine import fingerprint
from pipelines.engine.fingerprint import Identity
from pipelines.engine.stage import reads_of
from pipelines.experiment import STAGES, ExperimentConfig, load_experiment

EXPERIMENTS = Path(__file__).parents[2] / "configs" / "experiment"

# Whoever changes a stage's meaning raises its REVISION and writes the new values down here, and no others.
PINNED = {
    "demo.yaml": {
        "ingest": "9e7860949de874d6",
        "rooms": "7a6a8b34e7ea1bdd",
        "filter_language": "2acf9521543cc4b9",
        "transcribe": "0f3f66a11a4c46ee",
        "simulate": "a3114808866080d4",
        "train": "8e9b93c8ee2e00ad",
        "evaluate": "2e7a6ecc496cf443",
        "export": "69dac0712ffff973",
        "enhance": "e0fea31ec0d0082e",
    },
    "folder.yaml": {
        "ingest": "acf7462881c33d69",
        "rooms": "404b1d302b8078b7",
        "filter_language": "ae6985b9022f2f22",
        "transcribe": "21d28cffde6a6467",
        "simulate": "a60861490cdf8b17",
        "train": "0eda24d7295e357c",
        "evaluate": "24fa829ccd8d1b1c",
        "export": "0c93b709ef2b23cd",
        "enhance": "fe3edce2f922c968",
    },
}


def _fingerprints(config: ExperimentConfig) -> dict[str, str]:
    """Hash every stage's identity as `plan` does, with a stand-in for the digest of each stage that it reads."""
    found = {}
    for stage in STAGES:
        section = getattr(config, stage.NAME)
        inputs = {name: f"digest of {name}" for name in reads_of(stage, section)}
        found[stage.NAME] = Identity.of(stage.NAME, stage.REVISION, section, config.seed, inputs).fingerprint
    return found


@pytest.mark.parametrize("name", sorted(PINNED))
def test_fingerprints_of_the_shipped_experiments_are_pinned(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Folders of known content, and models by name: new embedded weights may well make work stale.
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(fingerprint, "model_digest", lambda name_or_path: f"sha256 of {name_or_path}")
    monkeypatch.setattr(corpora, "file_facts", lambda path: f"facts of {path.name}")
    for path in (tmp_path / "data" / "speech" / "a.wav", tmp_path / "data" / "noise" / "b.wav"):
        path.parent.mkdir(parents=True)
        path.write_bytes(b"RIFF")
    assert _fingerprints(load_experiment(EXPERIMENTS / name)) == PINNED[name]
