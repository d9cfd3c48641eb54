"""What people read: lengths and times in human terms, tables."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from flowse import console


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (7.4, "0:07"), (59.6, "1:00"), (750, "12:30"), (11100, "3:05:00"), (-1, "0:00")]
)
def test_durations(seconds: float, text: str) -> None:
    assert console.duration(seconds) == text


@pytest.mark.parametrize(("seconds", "text"), [(41, "41 s"), (912, "15.2 min"), (4332240, "1,203.4 h")])
def test_lengths_of_audio(seconds: float, text: str) -> None:
    assert console.audio(seconds) == text


def test_sizes_are_written_in_the_unit_that_fits() -> None:
    assert [console.size(count) for count in (0, 1023, 1024, 1.5 * 2**20, 1.5 * 2**40)] == [
        "0 B",
        "1023 B",
        "1.0 KiB",
        "1.5 MiB",
        "1,536.0 GiB",
    ]


def test_a_table_is_as_wide_as_its_cells() -> None:
    lines = console.table(("name", "n"), [("a", "1"), ("longer", "200")], right=(1,)).splitlines()
    assert lines == ["name      n", "a         1", "longer  200"]


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp437"])
def test_a_terminal_that_is_not_utf8_shows_what_it_can(encoding: str) -> None:
    code = (
        "from pipelines.__main__ import parser\nfrom flowse import console\n"
        "console.say('1 in → 1 kept …')\nparser().print_help()\nconsole.make_printable()\nprint('→')"
    )
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(b"1 in ")


def test_no_name_moves_the_cursor(capsys: pytest.CaptureFixture[str]) -> None:
    hostile = "x\x1b[2J\r\x07\u202e.wav"
    console.say(hostile)
    for shown in (console.table(("name",), [(hostile,)]), capsys.readouterr().out):
        assert r"x\x1b[2J\r\x07\u202e.wav" in shown
        assert shown.replace("\n", "").isprintable()
