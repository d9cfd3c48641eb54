"""Laws of the model registry: what comes back from MLflow enhances as what went in; mistakes are one line."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from flowse.enhancer import Enhancer
from flowse.export import ModelConfig, save
from flowse.flow.sampling import Sampling
from flowse.model.spec import DiTConfig, ModelSpec
from flowse.model.system import build
from flowse.pretrained import resolve
from pipelines.registry import find_model, log_model, mlflow

pytestmark = pytest.mark.filterwarnings("ignore")  # MLflow and what it imports warn of their own matters


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    spec = ModelSpec(model=DiTConfig(dim=32, depth=1, heads=2, conv_groups=4), mel_mean=-6.0, mel_std=3.0)
    folder = tmp_path_factory.mktemp("export") / "model"
    config = ModelConfig(spec=spec, sampling=Sampling(steps=2))
    save(folder, config, build(spec).state_dict(), resolve("vocos-mel-24khz-small"), "# a card\n")
    return folder


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    """A real sqlite store, and a run in it."""
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    client = mlflow.MlflowClient(tracking_uri=uri)
    experiment = client.create_experiment("e", artifact_location=(tmp_path / "artifacts").as_uri())
    return uri, client.create_run(experiment).info.run_id


def test_a_registered_model_enhances_as_its_export_does(model: Path, store: tuple[str, str], tmp_path: Path) -> None:
    address = log_model(*store, model, "speech")
    assert address == "models:/speech/1"
    noisy = np.random.default_rng(0).normal(0, 0.05, 30_000).astype(np.float32)
    expected = Enhancer.from_pretrained(model).enhance(noisy, 16_000, seed=3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loaded = mlflow.pyfunc.load_model(address)
        got = loaded.predict(noisy, params={"sample_rate": 16_000, "seed": 3})
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, expected)

    for uri in (address, f"runs:/{store[1]}/enhancer"):
        found = find_model(uri)
        assert (found / "model.safetensors").read_bytes() == (model / "model.safetensors").read_bytes()
    assert log_model(*store, model, "speech") == "models:/speech/2"

    soundfile.write(tmp_path / "in.wav", noisy, 16_000)
    command = [sys.executable, "-m", "flowse.cli", "enhance", str(tmp_path / "in.wav"), str(tmp_path / "out.wav")]
    told = subprocess.run(
        [*command, "--model", address], env=os.environ, capture_output=True, text=True, timeout=200, check=False
    )
    assert told.returncode == 0, told.stderr
    assert soundfile.info(tmp_path / "out.wav").frames == len(noisy)


def test_what_is_not_there_is_said_in_one_line(store: tuple[str, str]) -> None:
    for address in ("models:/nobody/1", f"runs:/{store[1]}/nothing"):
        with pytest.raises(FileNotFoundError, match="MLFLOW_TRACKING_URI") as caught:
            find_model(address)
        assert "\n" not in str(caught.value)
