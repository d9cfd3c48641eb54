"""`flowse score` prints a table of scores between 1 and 5."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from flowse.cli import main
from flowse.seeding import generator
from tests.terminal import lines_left, on_terminal


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


def test_a_terminal_gets_a_table_with_means_and_a_pipe_lines_for_programs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("speechmos", reason="the [pipeline] extra is not installed")
    for number, name in enumerate(("a.wav", "b.wav")):
        soundfile.write(tmp_path / name, 0.1 * generator(number).standard_normal(16_000), 16_000)
    (tmp_path / "bad.wav").write_text("<html>")
    assert main(["score", str(tmp_path)]) == 2
    piped = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    code = f"import os; os.chdir({str(tmp_path)!r})\nfrom flowse.cli import main\nmain(['score', '.'])"
    screen = on_terminal(code)
    lines = lines_left(screen)
    assert "━" in screen
    table = [line.split() for line in lines if line and not line.startswith("flowse: ")][-4:]
    assert [row[0] for row in table] == ["file", "a.wav", "b.wav", "mean"]
    assert [row[1:] for row in table[1:3]] == [row[1:] for row in piped[1:]]
    assert float(table[3][3]) == pytest.approx((float(piped[1][1]) + float(piped[2][1])) / 2, abs=0.001)
    assert sum("bad.wav: html_instead_of_audio" in line for line in lines) == 1


def test_a_folder_without_recordings_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("speechmos", reason="the [pipeline] extra is not installed")
    assert main(["score", str(tmp_path)]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert "no recording in it" in err
