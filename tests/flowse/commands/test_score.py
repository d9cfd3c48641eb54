"""`flowse score` prints a table of scores between 1 and 5."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from flowse.cli import main
from flowse.seeding import generator


def test_score_prints_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("speechmos", reason="the [pipeline] extra is not installed")
    samples = 0.1 * generator(0).standard_normal(73_600).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", samples, 16_000)
    assert main(["score", str(tmp_path / "a.wav")]) == 0
    header, row = capsys.readouterr().out.splitlines()
    assert header == "file\tovrl\tsig\tbak\tp808"
    assert all(1 <= float(value) <= 5 for value in row.split("\t")[1:])


def test_a_file_that_cannot_be_scored_is_named_and_the_others_are_scored(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("speechmos", reason="the [pipeline] extra is not installed")
    samples = 0.1 * generator(0).standard_normal(73_600).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", samples, 16_000)
    (tmp_path / "bad.wav").write_text("<html>")
    assert main(["score", *(str(tmp_path / name) for name in ("bad.wav", "a.wav"))]) == 2
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 2
    assert "bad.wav" in err
