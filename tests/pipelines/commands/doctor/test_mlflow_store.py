"""A tracking server is asked whether it is one, and a database is read before runs are written into it."""

from __future__ import annotations

import http.server
import sqlite3
import threading
from pathlib import Path

from pipelines.commands.doctor import mlflow_store
from pipelines.commands.doctor.finding import Finding
from pipelines.experiment import ClusterConfig


def findings(workspace: Path, uri: str = "") -> list[Finding]:
    return list(mlflow_store.look(ClusterConfig(mlflow_uri=uri), workspace))


def test_a_server_is_well_if_it_answers_as_mlflow_does(tmp_path: Path) -> None:
    answers = {"/health": (200, b"OK"), "/page/health": (200, b"<html>"), "/locked/health": (401, b"")}

    class Server(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, content = answers.get(self.path, (404, b""))
            self.send_response(status)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *_: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        found = [findings(tmp_path, f"{address}{path}") for path in ("", "/locked", "/page", "/gone")]
        server.shutdown()
    assert [finding.severity for (finding,) in found] == ["ok", "ok", "error", "error"]
    assert "another program" in found[2][0].text
    assert "HTTP 404" in found[3][0].text
    (gone,) = findings(tmp_path, address)
    assert gone.severity == "error"
    assert "mend cluster.mlflow_uri" in gone.mend


def test_a_database_that_is_none_is_found(tmp_path: Path) -> None:
    (fresh,) = findings(tmp_path)
    assert "to be made" in fresh.text
    (tmp_path / "mlflow.db").write_bytes(b"SQLite format 3\0 and rubbish" * 99)
    (broken,) = findings(tmp_path)
    assert broken.severity == "error"
    assert "mlflow.db" in broken.text
    (tmp_path / "mlflow.db").unlink()
    store = sqlite3.connect(tmp_path / "mlflow.db")
    store.execute("create table experiments (id)")
    store.close()
    assert [finding.severity for finding in findings(tmp_path)] == ["ok"]


def test_a_sqlite_file_of_a_cluster_is_warned_of(tmp_path: Path) -> None:
    found = list(mlflow_store.look(ClusterConfig(ray_address="head:6379"), tmp_path))
    assert [finding.severity for finding in found] == ["warning", "ok"]
    assert "mlflow_uri" in found[0].mend
