"""Laws of finding a model: an existing path has precedence over the name of an embedded model."""

from __future__ import annotations

from pathlib import Path

import pytest

from flowse import pretrained
from flowse.pretrained import names, resolve


def test_every_embedded_name_resolves_to_its_folder() -> None:
    for name in names():
        assert resolve(name).name == name
        assert resolve(name).is_dir()


def test_an_existing_path_has_precedence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "embedded" / "model").mkdir(parents=True)
    (tmp_path / "model").mkdir()
    monkeypatch.setattr(pretrained, "_ROOT", tmp_path / "embedded")
    monkeypatch.chdir(tmp_path)
    assert resolve("model") == Path("model")
    (tmp_path / "model").rmdir()
    assert resolve("model") == tmp_path / "embedded" / "model"


def test_an_unknown_name_lists_the_known_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tiny").mkdir()
    (tmp_path / "__pycache__").mkdir()
    monkeypatch.setattr(pretrained, "_ROOT", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"'huge' is neither a path nor an embedded model \(tiny\)"):
        resolve("huge")


def test_an_empty_name_is_refused() -> None:
    with pytest.raises(FileNotFoundError):
        resolve("")
