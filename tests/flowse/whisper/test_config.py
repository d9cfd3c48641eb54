"""Laws of the Whisper settings: what is missing or unknown is named in one line, before a model is loaded."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from flowse.errors import UserError
from flowse.whisper.config import BackendMissing, Decoding, WhisperConfig


def test_a_missing_model_says_what_to_do() -> None:
    with pytest.raises(FileNotFoundError, match=r"whisper-tiny.*large-v3"):
        WhisperConfig(model="no/such/model.pt").checkpoint()


def test_a_published_name_is_left_to_the_backend() -> None:
    assert WhisperConfig(model="large-v3").checkpoint() is None


def test_a_folder_with_one_checkpoint_stands_for_it(checkpoint: Path) -> None:
    assert WhisperConfig(model=str(checkpoint.parent)).checkpoint() == checkpoint


def test_a_ctranslate2_folder_is_for_its_own_backend(tmp_path: Path) -> None:
    (tmp_path / "model.bin").touch()
    with pytest.raises(FileNotFoundError, match="only backend 'faster-whisper'"):
        WhisperConfig(model=str(tmp_path)).checkpoint()


@pytest.mark.parametrize("backend", ["openai", "faster-whisper"])
def test_a_file_of_a_ctranslate2_folder_is_not_the_model(
    backend: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flowse.whisper.config._published", lambda backend: [])
    (tmp_path / "model.bin").touch()
    with pytest.raises(FileNotFoundError, match=rf"a part of a CTranslate2 folder; give its folder, {tmp_path}$"):
        WhisperConfig(model=str(tmp_path / "model.bin"), backend=backend).checkpoint()


@dataclass(frozen=True, kw_only=True)
class Section(WhisperConfig):
    """A stage's section; unlike the library's own classes it is not type-checked in tests."""


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"backend": "vosk"}, "backend is 'vosk'; allowed: openai, faster-whisper"),
        ({"compute": "fp8"}, "compute is 'fp8'; allowed: auto, float32, float16, int8"),
        ({"compute": "int8"}, "compute is 'int8'.*set backend: faster-whisper"),
        ({"batch_size": -1}, "batch_size is -1"),
    ],
)
def test_unknown_settings_are_refused(values: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        Section(**values)


def test_a_search_without_beams_or_tokens_is_refused() -> None:
    with pytest.raises(ValueError, match="beam_size is 0"):
        Decoding(beam_size=0)
    with pytest.raises(ValueError, match=r"tokens_per_second is 0\.0"):
        Decoding(tokens_per_second=0.0)


def test_a_backend_that_is_not_installed_says_what_to_type(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(BackendMissing, match=r"pip install '\.\[faster\]'"):
        WhisperConfig(backend="faster-whisper").checkpoint()


def test_what_is_required_is_named_by_its_key(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"^stage\.model: .*no/such\.pt.*; or leave it empty$"):
        WhisperConfig(model="no/such.pt").require("stage.model", "stage.backend", "; or leave it empty")
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(UserError, match=r"^stage\.backend: .*pip install '\.\[faster\]'$"):
        WhisperConfig(backend="faster-whisper").require("stage.model", "stage.backend")
