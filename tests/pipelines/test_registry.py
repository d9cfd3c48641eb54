"""Laws of the model registry: what comes back from MLflow enhances as what went in; mistakes are one line."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import tomllib
import urllib.request
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch

from flowse.enhancer import Enhancer
from flowse.export import ModelConfig, save
from flowse.flow.sampling import Sampling
from flowse.model.spec import DiTConfig, ModelSpec
from flowse.model.system import build
from flowse.pretrained import resolve
from pipelines.registry import REQUIREMENTS, find_model, log_model, mlflow, requirements
from pipelines.served import EnhancerModel

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


def test_a_table_is_enhanced_row_by_row_in_the_form_that_was_given(model: Path) -> None:
    served = EnhancerModel()
    served.load_context(SimpleNamespace(artifacts={"model": str(model)}))
    noisy = np.random.default_rng(0).normal(0, 0.05, (2, 8_000)).astype(np.float32)
    enhancer = Enhancer.from_pretrained(model)
    mono, stereo = enhancer.enhance(noisy[0], 16_000), enhancer.enhance(noisy, 16_000)
    params = {"sample_rate": 16_000}
    for given, expected in ((noisy[0], mono), (noisy[:1], mono[None]), (noisy, stereo), (noisy.tolist(), stereo)):
        np.testing.assert_array_equal(served.predict(None, given, params), expected)

    table = pd.DataFrame({"waveform": [noisy[0], noisy.tolist(), [float("nan")] * 9], "sample_rate": [16_000] * 3})
    table.index = pd.Index([7, 8, 9])
    made = served.predict(None, table)
    np.testing.assert_array_equal(made["waveform"][7], mono)
    np.testing.assert_array_equal(made["waveform"][8], stereo)
    assert list(made["error"][:2]) == ["", ""]
    assert "finite" in made["error"][9]
    assert list(made["sample_rate"]) == [16_000, 16_000, 0]

    file = io.BytesIO()
    soundfile.write(file, noisy[0], 16_000, format="WAV", subtype="FLOAT")
    data = file.getvalue()
    cells = [data, base64.b64encode(data).decode(), {"bytes": data, "path": "a.wav"}, b"no audio", "!"]
    made = served.predict(None, pd.DataFrame({"audio": cells}))
    for encoded in made["audio"][:3]:
        decoded, rate = soundfile.read(io.BytesIO(encoded), dtype="float32")
        assert rate == 16_000
        np.testing.assert_allclose(decoded, mono, atol=2**-14)
    assert [bool(error) for error in made["error"]] == [False, False, False, True, True]
    row = {"array": noisy[0], "sampling_rate": 16_000}
    np.testing.assert_array_equal(served.predict(None, pd.DataFrame({"audio": [row]}))["audio"][0], mono)
    with pytest.raises(ValueError, match="a table needs a column audio or waveform or samples; it has sound"):
        served.predict(None, pd.DataFrame({"sound": [1]}))


def test_what_a_logged_model_needs_is_what_the_library_depends_on() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needed = {re.split(r"[><=]", wanted)[0] for wanted in project["dependencies"]}
    assert needed - {"rich"} == set(REQUIREMENTS) - {"pandas"}
    assert not any("flowse" in wanted for wanted in requirements())


def test_a_logged_model_is_served_over_http_by_its_own_code(
    model: Path, store: tuple[str, str], tmp_path: Path
) -> None:
    address = log_model(*store, model)
    mlflow.set_tracking_uri(store[0])  # by which MLflow finds what belongs to the run's model
    fetched = Path(mlflow.artifacts.download_artifacts(artifact_uri=address, tracking_uri=store[0]))
    assert (fetched / "code" / "flowse" / "enhancer.py").is_file()
    assert sum(path.stat().st_size for path in (fetched / "code").rglob("*") if path.is_file()) < 5_000_000
    assert (fetched / "input_example.json").is_file()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    environment.pop("PYTHONPATH", None)
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", str(fetched), "--env-manager", "local"]
    with (tmp_path / "log").open("wb") as log, subprocess.Popen(
        [*command, "--port", str(port), "--workers", "1"], env=environment, cwd=tmp_path, stdout=log, stderr=log,
        start_new_session=True,
    ) as server:  # fmt: skip
        try:
            url = f"http://127.0.0.1:{port}"
            deadline = time.monotonic() + 200
            while not _pings(url) and time.monotonic() < deadline and server.poll() is None:
                time.sleep(0.5)
            noisy = np.random.default_rng(0).normal(0, 0.05, 8_000).astype(np.float32)
            expected = Enhancer.from_pretrained(model).enhance(noisy, 16_000)
            params = {"sample_rate": 16_000}
            samples = _post(url, {"inputs": noisy.tolist(), "params": params})
            np.testing.assert_allclose(samples, expected, atol=1e-5)
            many = _post(
                url, {"dataframe_split": {"columns": ["waveform"], "data": [[noisy.tolist()]]}, "params": params}
            )
            np.testing.assert_allclose(many[0]["waveform"], expected, atol=1e-5)
            file = io.BytesIO()
            soundfile.write(file, noisy, 16_000, format="WAV", subtype="FLOAT")
            row = {"audio": base64.b64encode(file.getvalue()).decode()}
            (made,) = _post(url, {"dataframe_records": [row]})
            decoded, rate = soundfile.read(io.BytesIO(base64.b64decode(made["audio"])), dtype="float32")
            assert (rate, made["error"]) == (16_000, "")
            np.testing.assert_allclose(decoded, expected, atol=2**-14)
        finally:
            os.killpg(server.pid, signal.SIGTERM)


def _pings(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/ping", timeout=5):
            return True
    except OSError:
        return False


def _post(url: str, body: dict[str, Any]) -> Any:
    request = urllib.request.Request(
        f"{url}/invocations", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=120) as answer:
        return json.loads(answer.read())["predictions"]
