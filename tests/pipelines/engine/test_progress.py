"""Progress that people see: utterances inside of units, what is worked on, and no flood of lines in a log."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from pipelines.engine import progress
from pipelines.engine.accounts import Tally
from pipelines.engine.progress import UnitProgress
from tests.terminal import on_terminal

CODE = """
import time, warnings
from flowse import console
from pipelines.engine.accounts import Tally
from pipelines.engine.progress import UnitProgress
shown = UnitProgress("simulate", 2, Tally(20, 200.0), 0, Tally())
shown.works_on(["shard-0123456789abcdef"])
for number in range(10):
    shown.count({"shard-0123456789abcdef": (number + 1.0, 10.0 * number)})
    shown.show()
    time.sleep(0.15)
    if number == 4:
        warnings.warn("a library is worried")
        console.say("a line of its own")
shown.advance("shard-0123456789abcdef", Tally(10, 100.0))
time.sleep(0.4)
shown.end()
print(console.table(("stage", "state", "fingerprint", "in"), [("ingest", "fresh", "f" * 60, "1,000")], (3,), (2,)))
"""


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_a_log_gets_a_line_when_something_moved_and_says_what_is_left(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    shown = UnitProgress("simulate", 10, Tally(100, 1000.0), 0, Tally())
    for number in range(5):
        clock[0] += 5.0
        shown.advance(f"shard-{number}", Tally(10, 100.0))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3  # at 5 s, 15 s and 25 s
    assert lines[1] == "simulate         0:15  3/10 units  30/100 items  2.0/s  20× real time  0:35 left"


def test_a_log_says_soon_that_work_goes_on_and_no_line_twice(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    shown = UnitProgress("simulate", 10, Tally(100, 1000.0), 0, Tally())
    for _ in range(100):
        clock[0] += 1.0
        shown.show()
    shown.end()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "simulate         0:01  0/10 units  0/100 items"
    assert len(lines) == len(set(lines)) == 4  # at 1, 31, 61 and 91 s
    clock[0] += 100.0
    shown.show()
    assert not capsys.readouterr().out


def test_short_work_needs_no_line(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    shown = UnitProgress("simulate", 1, Tally(1, 1.0), 0, Tally())
    clock[0] += 0.5
    shown.advance("shard-0", Tally(1, 1.0))
    shown.end()
    assert not capsys.readouterr().out


def line(shown: UnitProgress, capsys: pytest.CaptureFixture[str], clock: list[float]) -> str:
    """The next line of a log, 30 s of waiting later; the clock is put back."""
    before = clock[0]
    shown._next_s = 0.0
    shown._said = (-1, -1.0)
    UnitProgress._printed = ""
    shown.show()
    clock[0] = before
    return capsys.readouterr().out


def test_utterances_inside_of_units_count_once(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    shown = UnitProgress("transcribe", 3, Tally(30, 300.0), 1, Tally(10, 100.0))
    clock[0] = 4.0
    shown.works_on(["part-1", "part-2"])
    shown.count({"part-1": (6.0, 60.0), "part-2": (2.0, 20.0), "of an attempt before": (9.0, 9.0)})
    expected = "0:04  1/3 units  18/30 items  2.0/s  20× real time  0:06 left  at part-1, part-2"
    assert expected in line(shown, capsys, clock)
    shown.advance("part-1", Tally(10, 100.0))
    assert "2/3 units  22/30 items" in line(shown, capsys, clock)
    shown.works_on(["part-2"])
    assert "2/3 units  22/30 items" in line(shown, capsys, clock)
    shown.works_on([])  # the unit is given back: what was done of it is lost
    assert "2/3 units  20/30 items" in line(shown, capsys, clock)


def test_units_of_unknown_size_are_measured_in_units(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    shown = UnitProgress("ingest", 4, Tally(), 0, Tally())
    clock[0] = 2.0
    shown.advance("a", Tally(5, 50.0))
    assert "1/4 units  2.5/s  25× real time  0:06 left" in line(shown, capsys, clock)


def test_a_terminal_has_a_bar_with_time_and_rate_and_other_lines_stand_above_it() -> None:
    screen = on_terminal(CODE)
    for part in ("0/2 units", "1/2 units", "10/20 items", "/s", "left", "━"):
        assert part in screen
    plain = [line.split("\r")[-1] for line in re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen).splitlines()]
    assert "at shard-012345" in screen
    assert "a line of its own" in [line.strip() for line in plain]
    assert any("a library is worried" in line for line in plain)
    assert plain[-2].split() == ["stage", "state", "in"]  # 80 columns: the fingerprint is left out
    assert plain[-1].split() == ["ingest", "fresh", "1,000"]
    assert "\x1b[32mfresh" in screen
    assert screen.rindex("\x1b[?25h") > screen.rindex("\x1b[?25l")  # the cursor is back


@pytest.mark.parametrize("settings", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_colours_are_left_out_where_people_do_not_want_them(settings: dict[str, str]) -> None:
    assert not re.search(r"\x1b\[(3|4|9)[0-9]", on_terminal(CODE, **settings))


def test_a_pipe_gets_plain_lines() -> None:
    out = subprocess.run([sys.executable, "-c", CODE], capture_output=True, check=True, text=True).stdout
    assert "\x1b" not in out
    assert "\r" not in out
    lines = out.splitlines()
    assert len(set(lines)) == len(lines)
    assert lines[-1].split() == ["ingest", "fresh", "f" * 60, "1,000"]
