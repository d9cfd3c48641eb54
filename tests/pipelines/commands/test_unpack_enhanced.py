"""`unpack-enhanced` writes the recordings that enhance made as files, and says in one line why it cannot."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile

from flowse.data.enhanced import TarWriter, write_flac
from flowse.data.manifest import Utterance
from pipelines.__main__ import main
from pipelines.commands.session import Session


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A finished output of enhance with one recording, a.flac of the corpus c; returns the folder to write."""
    write_flac(tmp_path / "a.flac", [np.zeros((1, 500), np.float32)], 8_000, 1, 16)
    row = Utterance(
        utt_id="c/a", corpus="c", kind="speech", path="a.flac", sample_rate=8_000, channels=1, duration_s=0.0625
    )
    facts = {"file": "c/a.flac", "samples": 500, "bits": 16, "peak_before": 1.0, "peak": 1.0}
    with TarWriter(tmp_path / "u.tar", tmp_path / "u.parquet", "u.tar") as tar:
        tar.add(row, tmp_path / "a.flac", {}, **facts)
    output = SimpleNamespace(parts=lambda suffix, here=False: [tmp_path / f"u{suffix}"])
    monkeypatch.setattr(Session, "finished", lambda session, stage: output)
    return tmp_path / "files"


def test_files_are_written_under_their_own_paths(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["unpack-enhanced", str(made), "--corpus", "c"]) == 0
    assert capsys.readouterr().out == f"{made}: 1 files\n"
    assert soundfile.info(made / "c" / "a.flac").frames == 500
    assert main(["unpack-enhanced", str(made)]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert main(["unpack-enhanced", str(made), "--overwrite"]) == 0


def test_nothing_to_write_is_said(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["unpack-enhanced", str(made), "--corpus", "other"]) == 2
    assert "enhance has made nothing of corpus 'other'; name recordings in" in capsys.readouterr().err


def test_a_stage_that_has_not_run_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["unpack-enhanced", str(tmp_path / "files"), f"--workspace={tmp_path / 'w'}"]) == 2
    assert "enhance is missing" in capsys.readouterr().err
