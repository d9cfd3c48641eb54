"""What all tests of the pipeline share: MLflow's stores begin as a copy of an empty one, whose tables are made once."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipelines.engine import tracking


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Path]:
    """Make an empty sqlite store of MLflow at the first call: its migrations take a second or two."""
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    connect = tracking._client

    def make() -> Path:
        if not path.exists():
            connect(tracking.default_uri(path.parent)).search_experiments()
        return path

    return make


@pytest.fixture(autouse=True)
def _stores_are_copies(empty_store: Callable[[], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    connect = tracking._client

    def client(uri: str) -> Any:
        path = Path(uri.removeprefix("sqlite:///"))
        if uri == tracking.default_uri(path.parent) and path.parent.is_dir() and not path.exists():
            shutil.copyfile(empty_store(), path)
        return connect(uri)

    monkeypatch.setattr(tracking, "_client", client)
