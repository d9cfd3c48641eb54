"""Look at the MLflow store: a server that answers, or a database in the workspace that can be read and written."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from pipelines.commands.doctor import nodes
from pipelines.commands.doctor.finding import Finding
from pipelines.engine.cluster import address_of
from pipelines.experiment import ClusterConfig


def look(cluster: ClusterConfig, workspace: Path) -> Iterator[Finding]:
    """Yield a finding about the tracking server that the cluster names, or about the workspace's database."""
    uri = urllib.parse.urlparse(cluster.mlflow_uri)
    if uri.scheme in ("http", "https"):
        why = _unhealthy(cluster.mlflow_uri)
        if why:
            mend = "start it, or mend cluster.mlflow_uri"
            yield Finding("error", "MLflow", f"{cluster.mlflow_uri} cannot be used: {why}", mend)
        else:
            yield Finding("ok", "MLflow", f"{cluster.mlflow_uri} answers")
        return
    store = workspace / "mlflow.db"
    if not cluster.mlflow_uri and cluster.backend == "ray" and address_of(cluster):
        text = "sqlite in the workspace, which one process alone may write: a training's curves come when it ends"
        yield Finding("warning", "MLflow", text, "give a server if the cluster has several machines (mlflow_uri)")
    if cluster.mlflow_uri:
        yield Finding("ok", "MLflow", cluster.mlflow_uri)
    elif store.exists():
        why = _broken_store(store)
        mend = "restore it, or move it away: runs are tracked anew then"
        yield Finding("error", "MLflow", f"{store}: {why}", mend) if why else Finding("ok", "MLflow", str(store))
    else:
        yield Finding("ok", "MLflow", f"sqlite, to be made in {workspace}")


def _unhealthy(uri: str) -> str | None:
    """Ask a tracking server for its health; return why it cannot be used, or None if it can."""
    host = urllib.parse.urlparse(uri)
    why = nodes.reachable(host.hostname or "", host.port or (443 if host.scheme == "https" else 80))
    if why:
        return why
    try:
        with urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=5) as answer:
            return None if answer.read(16).strip() == b"OK" else "another program answers there"
    except urllib.error.HTTPError as error:
        # A server that asks for a password is a server.
        return None if error.code in (401, 403) else f"HTTP {error.code}: is it MLflow?"
    except OSError as error:
        return str(error)


def _broken_store(path: Path) -> str | None:
    """Return why an MLflow database cannot be used, or None if it can."""
    if not os.access(path, os.W_OK):
        return "cannot be written"
    try:
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=5)) as store:
            store.execute("select count(*) from experiments").fetchone()
    except sqlite3.Error as error:
        return str(error)
    return None
