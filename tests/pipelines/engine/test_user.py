"""A user that the system does not know gets a name and a home; any other keeps its own."""

from __future__ import annotations

import getpass
import os
import pwd
from pathlib import Path

import pytest

from pipelines.engine.user import ensure_name_and_home


def test_an_unknown_uid_gets_a_name_and_a_home(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(uid: int) -> object:
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    for name in ("USER", "LOGNAME", "LNAME", "USERNAME", "HOME"):
        # Set before it is deleted: what the function sets is then undone as well.
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    ensure_name_and_home()
    assert getpass.getuser() == f"uid-{os.getuid()}"
    assert Path.home().is_dir()


def test_a_known_user_keeps_name_and_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("USER", "ada")
    monkeypatch.setenv("HOME", "/somewhere")
    ensure_name_and_home()
    assert (os.environ["USER"], os.environ["HOME"]) == ("ada", "/somewhere")
