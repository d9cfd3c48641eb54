"""Laws of the conversion: it is done once a machine, whole or not at all, and names what is no checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from flowse.whisper.conversion import converted

pytest.importorskip("ctranslate2", reason="pip install '.[faster]'")


def test_a_conversion_is_kept_and_whole(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    folder = converted(checkpoint)
    before = (folder / "model.bin").stat().st_mtime_ns
    assert converted(checkpoint) == folder
    assert (folder / "model.bin").stat().st_mtime_ns == before
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    broken = tmp_path / "broken.pt"
    torch.save({"dims": {}, "model_state_dict": {}}, broken)
    with pytest.raises(ValueError, match=r"broken\.pt: not a checkpoint"):
        converted(broken)
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
