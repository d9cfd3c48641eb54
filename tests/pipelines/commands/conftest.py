"""A workspace of two finished stages, which the commands take for the program's own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipelines.commands import session
from pipelines.experiment import ClusterConfig
from tests.pipelines import two_stages
from tests.pipelines.two_stages import carry_out, config


@pytest.fixture
def done(tmp_path: Path) -> Path:
    """A workspace in which both stages are finished."""
    carry_out(tmp_path, config(), "first")
    carry_out(tmp_path, config(), "second")
    return tmp_path


@pytest.fixture
def use(done: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], None]:
    """Let commands work on the workspace `done` with the settings that this function is called with."""
    monkeypatch.setattr(session, "STAGES", two_stages.STAGES)

    def use(settings: Any) -> None:
        started = session.Session(settings, ClusterConfig(), done)
        monkeypatch.setattr(session.Session, "of", lambda _, **looks: started)

    return use
