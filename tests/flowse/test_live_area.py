"""The live area of a terminal: bars while work goes on, and nothing where there is no terminal."""

from __future__ import annotations

import pytest

from flowse import live_area
from flowse.live_area import Bar
from tests.terminal import lines_left, on_terminal

CODE = """
import sys
from flowse import live_area
from flowse.live_area import Bar
first, second = Bar("one", stderr=True), Bar("two", stderr=True)
first.show(0.5, "half\\x1b[2J done")
print("a line above", file=sys.stderr)
first.end()
second.show(1.0, "all of it")
live_area.close()
second.end()
print("after")
"""


def test_bars_come_and_go_and_lines_stand_above_them() -> None:
    screen = on_terminal(CODE)
    assert "one " in screen
    assert "two " in screen
    left = [line for line in lines_left(screen) if line]
    assert [line for line in left if not line.startswith(("one ", "two "))] == ["a line above", "after"]
    assert "\x1b[2J" not in screen
    assert screen.rindex("\x1b[?25h") > screen.rindex("\x1b[?25l")  # the cursor is back


@pytest.mark.parametrize("settings", [{"TERM": "dumb"}, {"TERM": ""}])
def test_a_terminal_that_cannot_move_its_cursor_gets_no_bar(settings: dict[str, str]) -> None:
    assert [line for line in lines_left(on_terminal(CODE, **settings)) if line] == ["a line above", "after"]


def test_a_log_gets_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    bar = Bar("one")
    bar.show(0.5, "half")
    bar.end()
    live_area.close()
    assert capsys.readouterr() == ("", "")
    assert not bar.live
