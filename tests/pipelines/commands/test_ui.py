"""`ui` opens the experiment's runs on the store of the session, and refuses what cannot be served."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import urllib.request
import webbrowser
from pathlib import Path

import pytest

from pipelines.__main__ import main
from pipelines.engine.tracking import Experiment, default_uri
from tests.browser import chromium, require_chromium


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def tracked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace whose store has the experiment of demo.yaml with two runs."""
    workspace = tmp_path_factory.mktemp("tracked")
    for steps, score in ((100, 0.4), (200, 0.6)):
        experiment = Experiment(
            default_uri(workspace), "demo", workspace, {}, changes=[f"train.max_steps={steps}"], commit="abc"
        )
        with experiment, experiment.stage("evaluate", {}) as run:
            run.metrics({"gain/ovrl": score})
            experiment.headline({"DNSMOS gain": score})
    return workspace


def test_a_workspace_without_a_store_and_a_port_that_is_taken_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["ui", f"--workspace={tmp_path}"]
    assert main(words) == 2
    assert "nothing has been tracked here yet" in capsys.readouterr().err
    (tmp_path / "mlflow.db").touch()
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        assert main([*words, f"--port={port}"]) == 2
    assert f"port {port}: Address already in use; give another" in capsys.readouterr().err
    assert main([*words, "--port=70000"]) == 2


def test_a_real_server_shows_the_experiments_runs_in_the_model_training_view(
    tracked: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    port = free_port()
    command = [sys.executable, "-m", "pipelines", "ui", f"--workspace={tracked}", f"--port={port}", "--no-browser"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as ui:
        try:
            assert ui.stdout is not None
            page = next(line for line in ui.stdout if line.startswith("MLflow: ")).split()[1]
            assert (
                page
                == f"http://127.0.0.1:{port}/#/experiments/1/runs?viewStateShareKey=headline&workflowType=machine_learning"
            )
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=30) as answer:
                assert answer.status == 200
            opened: list[str] = []
            monkeypatch.setattr(webbrowser, "open", opened.append)
            monkeypatch.setenv("DISPLAY", ":0")
            # A cluster's server is only shown, not started again.
            assert main(["ui", f"--workspace={tracked}", f"--set=cluster.mlflow_uri=http://127.0.0.1:{port}"]) == 0
            assert opened == [page]
            assert page in capsys.readouterr().out
            shows_runs(page)
        finally:
            os.killpg(ui.pid, signal.SIGINT)  # as a terminal sends Ctrl-C to all of a job
            ui.wait(60)
            assert ui.stderr is not None
            said = ui.stderr.read()
    assert "Traceback" not in said
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port))  # the server has ended, too


def shows_runs(page: str) -> None:
    """The list of runs, in a real browser if there is one."""
    try:
        require_chromium()
    except pytest.skip.Exception:
        return
    with chromium() as browser:
        tab = browser.new_page(viewport={"width": 1900, "height": 900})
        tab.goto(page)
        for text in ("demo: train.max_steps=100", "demo: train.max_steps=200", "DNSMOS gain", "0.6"):
            tab.get_by_text(text, exact=False).first.wait_for(timeout=60_000)
