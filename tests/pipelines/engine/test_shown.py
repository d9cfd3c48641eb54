"""Laws of what was shown: pages and artifacts of the outputs that are named stay, models stay, all else is found."""

from __future__ import annotations

from pathlib import Path

from pipelines.engine.shown import ARTIFACTS, shown_of_others


def write(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def test_pages_and_artifacts_of_other_outputs_are_found(tmp_path: Path) -> None:
    pages = tmp_path / "listen"
    write(pages / "aa11-train.html")
    write(pages / "aa11-train-audio" / "0123456789ab.noisy.flac")
    beside = write(pages / "bb22-dev-audio" / "0123456789ab.noisy.flac")
    old = write(pages / "bb22-dev.html")
    write(tmp_path / ARTIFACTS / "kept" / "artifacts" / "rejects.parquet")
    rejects = write(tmp_path / ARTIFACTS / "gone" / "artifacts" / "rejects.parquet")
    page = write(tmp_path / ARTIFACTS / "gone" / "artifacts" / "listen" / "page.html")
    write(tmp_path / ARTIFACTS / "gone" / "artifacts" / "model" / "model.safetensors")
    write(tmp_path / ARTIFACTS / "models" / "m-1" / "artifacts" / "MLmodel")
    assert shown_of_others(tmp_path, pages, {"aa11"}, {"kept"}) == [beside, old, page, rejects]


def test_a_workspace_without_any_shows_nothing(tmp_path: Path) -> None:
    assert shown_of_others(tmp_path, tmp_path / "listen", set(), set()) == []
