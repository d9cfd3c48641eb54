"""Open the MLflow UI at the runs of the experiment: that of the cluster's server, or one on the workspace's store."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import webbrowser

from flowse import console
from flowse.errors import UserError
from pipelines.commands.session import Session
from pipelines.engine import tracking

_HOST = "127.0.0.1"
_READY_S = 120.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the port, and whether a browser is opened."""
    parser.add_argument("--port", type=int, default=5000, help="port of the UI (default: %(default)s)")
    parser.add_argument("--no-browser", action="store_true", help="print the address, and open no browser")


def run(arguments: argparse.Namespace) -> int:
    """Serve the UI until it is interrupted, or name the server's; return the exit code.

    Raises:
        UserError: The store would be the workspace's own database, and there is none yet; or the port is taken.
    """
    session = Session.of(arguments)
    uri, name = session.mlflow_uri, session.config.name
    browser = not arguments.no_browser and _has_screen()
    if uri.startswith(("http:", "https:")):
        _show(tracking.runs_page(uri, uri, name), browser)
        return 0
    if not session.cluster.mlflow_uri and not (session.workspace / "mlflow.db").exists():
        raise UserError(f"{session.workspace}: nothing has been tracked here yet; run the pipeline first")
    _require_free(arguments.port)
    server = f"http://{_HOST}:{arguments.port}"
    console.say(f"MLflow starts on {uri} …")
    command, environment = tracking.ui_command(uri, arguments.port), tracking.ui_environment()
    # A group of its own: Ctrl-C would reach MLflow's processes too, and each would print a traceback. So what ends this
    # process has to end them.
    for ending in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(ending, lambda number, _: sys.exit(128 + number))
    with subprocess.Popen(command, env=environment, start_new_session=True) as process:
        try:
            page = tracking.runs_page(server, uri, name)
            if _answers(server, process):
                _show(page, browser)
                console.say("Ctrl-C ends it")
            return process.wait()
        except KeyboardInterrupt:
            return 130
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)


def _require_free(port: int) -> None:
    """Refuse a port that another program has: MLflow would say so in a traceback, or serve beside it.

    Raises:
        UserError: Naming another port.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a UI that has just ended is no obstacle
        try:
            probe.bind((_HOST, port))
        except (OSError, OverflowError) as error:
            why = getattr(error, "strerror", None) or error
            raise UserError(f"port {port}: {why}; give another, e.g. --port {min(port, 65000) + 1}") from None


def _answers(server: str, process: subprocess.Popen[bytes]) -> bool:
    """Wait until the server answers; False if it ended before."""
    end = time.monotonic() + _READY_S
    while process.poll() is None and time.monotonic() < end:
        try:
            with urllib.request.urlopen(f"{server}/health", timeout=5):
                return True
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    return False


def _show(page: str, browser: bool) -> None:
    console.say(f"MLflow: {page}")
    if browser:
        webbrowser.open(page)


def _has_screen() -> bool:
    """Whether a browser would open in a window, and not in the terminal."""
    return sys.platform in ("darwin", "win32") or any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))
