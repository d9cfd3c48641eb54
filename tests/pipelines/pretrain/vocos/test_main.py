"""Laws of the command line: it trains, resumes and publishes, and a missing option is named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from flowse.audio.vocoder import load_vocoder
from pipelines.pretrain.vocos import __main__ as recipe
from pipelines.pretrain.vocos.training import NetworkConfig, TrainingConfig


@pytest.fixture
def audio(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for name in ("speech/en/a.flac", "noise/n.wav"):
        path = tmp_path / "audio" / name
        path.parent.mkdir(parents=True)
        sf.write(path, 0.1 * rng.standard_normal(24_000), 24_000)
    return tmp_path / "audio"


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the network small enough for a test."""

    class Small(TrainingConfig):
        def __init__(self, steps: int, adversarial_from: float) -> None:
            network = NetworkConfig(dim=8, layers=1)
            super().__init__(network=network, steps=steps, adversarial_from=adversarial_from, warmup=1)

    monkeypatch.setattr(recipe, "TrainingConfig", Small)


def test_the_command_trains_resumes_and_publishes(
    tmp_path: Path, audio: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["--out", str(tmp_path / "run"), "--audio", str(audio), "--threads", "1", "--weight", "en=2"]
    assert recipe.main([*command, "--steps", "1"]) == 0
    with pytest.raises(SystemExit, match="--resume"):
        recipe.main([*command, "--steps", "2"])
    assert recipe.main([*command, "--steps", "2", "--resume"]) == 0
    assert "resumed at step 1" in capsys.readouterr().out
    assert recipe.main(["--out", str(tmp_path / "run"), "--publish", str(tmp_path / "model")]) == 0
    assert load_vocoder(tmp_path / "model").mel.n_mels == 100


def test_the_error_without_audio_names_the_option(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="--audio"):
        recipe.main(["--out", str(tmp_path)])
