"""`ui` serves the store of the session, and refuses a workspace in which nothing was tracked."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from pipelines.__main__ import main


def test_the_ui_is_started_on_the_store_and_its_exit_code_is_returned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    called: list[list[str]] = []

    def call(words: list[str]) -> int:
        called.append(words)
        return 3

    monkeypatch.setattr(subprocess, "call", call)
    words = ["ui", f"--workspace={tmp_path}", "--port=5001"]
    assert main(words) == 2
    assert "nothing has been tracked here yet" in capsys.readouterr().err
    assert main([*words, "--set=cluster.mlflow_uri=http://mlflow:5000"]) == 3
    (tmp_path / "mlflow.db").touch()
    assert main(words) == 3
    assert [word[-3:] for word in called] == [
        ["http://mlflow:5000", "--port", "5001"],
        [f"sqlite:///{tmp_path}/mlflow.db", "--port", "5001"],
    ]
