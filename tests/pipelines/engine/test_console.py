"""What people read: lengths and times in human terms, progress that does not flood a log."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys

import pytest

from pipelines.engine import console
from pipelines.engine.accounts import Tally


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (7.4, "0:07"), (59.6, "1:00"), (750, "12:30"), (11100, "3:05:00"), (-1, "0:00")]
)
def test_durations(seconds: float, text: str) -> None:
    assert console.duration(seconds) == text


@pytest.mark.parametrize(("seconds", "text"), [(41, "41 s"), (912, "15.2 min"), (4332240, "1,203.4 h")])
def test_lengths_of_audio(seconds: float, text: str) -> None:
    assert console.audio(seconds) == text


def test_a_log_gets_a_line_when_something_moved_and_says_what_is_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: clock[0])
    progress = console.Progress("simulate", 10, Tally(100, 1000.0), 0, Tally())
    for _ in range(5):
        clock[0] += 5.0
        progress.advance(Tally(10, 100.0))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2  # at 10 s and at 20 s
    assert lines[-1] == "simulate         4/10 units  2.0 items/s  20× real time  0:30 left  0:20 elapsed"
    clock[0] += 30.0
    progress.show()
    assert len(capsys.readouterr().out.splitlines()) == 1


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
        "from pipelines.__main__ import parser\nfrom pipelines.engine import console\n"
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


def test_a_log_says_soon_that_work_goes_on_and_no_line_twice(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: clock[0])
    progress = console.Progress("simulate", 10, Tally(100, 1000.0), 0, Tally())
    for _ in range(100):
        clock[0] += 1.0
        progress.show()
    progress.end()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "simulate         0/10 units  0:01 elapsed"
    assert len(lines) == len(set(lines)) == 4  # at 1, 31, 61 and 91 s
    clock[0] += 100.0
    progress.show()
    assert capsys.readouterr().out == ""


TERMINAL = """
import sys, time, warnings
from pipelines.engine import console
from pipelines.engine.accounts import Tally
progress = console.Progress("simulate", 2, Tally(4, 8.0), 0, Tally())
time.sleep(0.6)
console.say("a line of its own")
warnings.warn("of somebody else")
progress.advance(Tally(2, 4.0))
time.sleep(0.6)
progress.end()
print(console.table(("stage", "state", "fingerprint", "in"), [("ingest", "fresh", "f" * 60, "1,000")], (3,), (2,)))
"""


def test_a_terminal_has_a_bar_with_time_and_rate_and_other_lines_stand_above_it() -> None:
    screen = on_terminal(TERMINAL)
    assert "0/2 units" in screen
    assert "1/2 units" in screen
    assert "items/s" in screen
    assert "left" in screen
    plain = [line.split("\r")[-1] for line in re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen).splitlines()]
    assert "a line of its own" in [line.strip() for line in plain]
    assert any("of somebody else" in line for line in plain)
    assert plain[-2].split() == ["stage", "state", "in"]  # 80 columns: the fingerprint is left out
    assert plain[-1].split() == ["ingest", "fresh", "1,000"]
    assert "\x1b[32mfresh" in screen


def on_terminal(code: str) -> str:
    """What a program writes to a terminal of 80 columns."""
    reader, writer = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "80", "LINES": "24"}
    environment.pop("NO_COLOR", None)
    with subprocess.Popen([sys.executable, "-c", code], stdout=writer, stderr=writer, env=environment) as program:
        os.close(writer)
        written = b""
        while True:
            try:
                piece = os.read(reader, 65_536)
            except OSError:  # Linux: the program has ended
                break
            if not piece:
                break
            written += piece
    os.close(reader)
    assert program.returncode == 0, written.decode()
    return written.decode()
