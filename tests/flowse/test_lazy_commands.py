"""Commands are imported when they are called, with their own arguments and those that all share."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from flowse.lazy_commands import add_commands

HELPS = {"say-it": "print a word", "break": "fail while it is imported"}


@pytest.fixture
def parser(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[argparse.ArgumentParser]:
    """A command line of a package in which one of two commands cannot even be imported."""
    package = tmp_path / "lazy_package"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "say_it.py").write_text(
        "def add_arguments(parser):\n    parser.epilog = 'For example: hello'\n    parser.add_argument('word')\n\n"
        "def run(arguments):\n    print(arguments.word, arguments.where)\n    return 3\n"
    )
    (package / "break.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    top = argparse.ArgumentParser(prog="program")
    add_commands(top, "lazy_package", HELPS, common=lambda command: command.add_argument("--where", default="here"))
    yield top
    for name in [name for name in sys.modules if name.startswith("lazy_package")]:
        del sys.modules[name]


def test_only_the_module_of_the_called_command_is_imported(
    parser: argparse.ArgumentParser, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = parser.parse_args(["say-it", "hello"])
    assert arguments.run(arguments) == 3
    assert capsys.readouterr().out == "hello here\n"
    with pytest.raises(RuntimeError, match="imported"):
        parser.parse_args(["break"])


def test_help_of_the_whole_imports_no_command(
    parser: argparse.ArgumentParser, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parser.parse_args(["--help"])
    said = capsys.readouterr().out
    assert all(name in said and text in said for name, text in HELPS.items())
    assert "lazy_package" not in sys.modules


def test_help_of_a_command_shows_what_its_module_says(
    parser: argparse.ArgumentParser, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parser.parse_args(["say-it", "--help"])
    said = capsys.readouterr().out
    assert "Print a word." in said
    assert "For example: hello" in said
    assert "--where" in said


def test_an_unknown_command_is_refused_with_the_known_ones(
    parser: argparse.ArgumentParser, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parser.parse_args(["sing"])
    assert "'say-it', 'break'" in capsys.readouterr().err
