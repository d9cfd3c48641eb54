"""Laws of the command: a mistake is reported in one line with its mend, and recipes accept their arguments."""

from __future__ import annotations

import importlib
import subprocess
from pathlib import Path

import pytest

from pipelines import pretrain
from pipelines.pretrain import __main__ as dispatcher
from pipelines.pretrain import flowse_score
from pipelines.pretrain.__main__ import MODELS, check_audio, command, find_model, main

assert pretrain


@pytest.fixture
def audio(tmp_path: Path) -> Path:
    for name in ("train", "dev"):
        (tmp_path / "audio" / name).mkdir(parents=True)
    (tmp_path / "audio" / "manifest.csv").write_text("path\n")
    return tmp_path / "audio"


def error_of(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert not captured.out
    return captured.err


def test_a_users_mistake_is_reported_in_one_line(
    audio: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    at = ["--audio", str(audio)]
    assert "the models are whisper, vocos" in error_of(["train", "whispr", *at], capsys)
    assert "--model is for score" in error_of(["train", "vocos", *at, "--model", "x"], capsys)
    assert "'x' is neither a path" in error_of(["score", "vocos", *at, "--model", "x"], capsys)
    gone = error_of(["score", "vocos", "--audio", str(tmp_path / "gone")], capsys)
    assert "no such folder" in gone
    assert "make score MODEL=vocos AUDIO=DIR" in gone
    (audio / "manifest.csv").unlink()
    assert "lacks manifest.csv; the recordings' folder holds train/" in error_of(["train", "flowse", *at], capsys)


def test_the_error_for_a_model_that_is_not_shipped_says_how_to_train_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatcher, "names", lambda: ["vocos-mel-24khz-small"])
    for name in ("speaker", "flowse"):
        with pytest.raises(dispatcher.UserError, match=f"make pretrain MODEL={name}"):
            find_model(name, "")


def test_the_model_is_the_given_one_or_else_the_embedded_one(tmp_path: Path) -> None:
    assert find_model("whisper", "").name == "model.pt"
    assert find_model("vocos", "").name == "vocos-mel-24khz-small"
    (tmp_path / "voices.onnx").touch()
    assert find_model("speaker", str(tmp_path)) == tmp_path / "voices.onnx"
    (tmp_path / "more.onnx").touch()
    with pytest.raises(dispatcher.UserError, match="holds 2 files"):
        find_model("speaker", str(tmp_path))


@pytest.mark.parametrize("action", ["train", "score"])
@pytest.mark.parametrize("name", MODELS)
def test_every_recipe_accepts_the_arguments_that_it_is_called_with(name: str, action: str, audio: Path) -> None:
    module, *words = command(
        action, name, check_audio(audio, action, name), Path("model") if action == "score" else None
    )
    if module == "pipelines.pretrain.flowse_score":
        assert flowse_score.parse(words).model == "model"
    else:
        parsed = importlib.import_module(f"{module}.__main__").parse(words)
        assert bool(getattr(parsed, "score", None)) is (action == "score")
        assert str(parsed.audio or audio).startswith(str(audio))


def test_further_arguments_reach_the_recipe_and_its_exit_status_is_returned(
    audio: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    called: list[list[str]] = []

    def call(words: list[str]) -> int:
        called.append(words)
        return 3

    monkeypatch.setattr(subprocess, "call", call)
    assert main(["train", "vocos", "--audio", str(audio), "--steps", "7", "--mlflow"]) == 3
    assert called[0][-3:] == ["--steps", "7", "--mlflow"]
    assert "python -m pipelines.pretrain.vocos" in capsys.readouterr().out
