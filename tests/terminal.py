"""A terminal for tests: what a program writes to it, with the codes that move its cursor."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys


def on_terminal(code: str, **settings: str) -> str:
    """Run a program; return what it writes to a terminal of 80 columns.

    Args:
        code: Python.
        settings: Environment variables.
    """
    reader, writer = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "80", "LINES": "24"}
    environment.pop("NO_COLOR", None)
    environment |= settings
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


def lines_left(screen: str) -> list[str]:
    """Return the lines as they stand in the end: without colours, and without what was written over."""
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen)
    return [line.split("\r")[-1].rstrip() for line in plain.replace("\r\n", "\n").split("\n")]
