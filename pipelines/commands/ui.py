"""Open the MLflow UI on the store of a workspace."""

from __future__ import annotations

import argparse
import subprocess

from flowse.errors import UserError
from pipelines.commands.session import Session
from pipelines.engine import tracking


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the port."""
    parser.add_argument("--port", type=int, default=5000, help="port of the UI (default: %(default)s)")


def run(arguments: argparse.Namespace) -> int:
    """Serve the UI until it is interrupted; return its exit code.

    Raises:
        UserError: The store would be the workspace's own database, and there is none yet.
    """
    session = Session.of(arguments)
    if not session.cluster.mlflow_uri and not (session.workspace / "mlflow.db").exists():
        raise UserError(f"{session.workspace}: nothing has been tracked here yet; run the pipeline first")
    return subprocess.call(tracking.ui_command(session.mlflow_uri, arguments.port))
