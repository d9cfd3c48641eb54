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
        "ingest": "720a9aab7df256d2",
        "rooms": "00cb467e9040946a",
        "quality": "cd8bbefc866917be",
        "filter_language": "477dde55c43c5748",
        "transcribe": "367047733b26011d",
        "simulate": "0d912d64c0cadab9",
        "train": "9ee1943db4ca314a",
        "evaluate": "d24ea6b46ded560f",
        "export": "8f956526a2251bd5",
        "enhance": "fe2581119b15a49a",
    },
    "folder.yaml": {
        "ingest": "8517d7f50aed5046",
        "rooms": "fcdee3a1a33ad6ee",
        "quality": "c91c5243d5885eee",
        "filter_language": "980b7c5ff65f0541",
        "transcribe": "be3aba222822efca",
        "simulate": "5f89b42505f9319c",
        "train": "f0616689d1f9895d",
        "evaluate": "7138df9c52d54b44",
        "export": "e12a55bea090d8dd",
        "enhance": "0c5a409d82fbe5c8",
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
