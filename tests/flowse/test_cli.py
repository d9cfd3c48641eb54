"""The `flowse` command: every command is a module, and every error is one line and an exit code."""

from __future__ import annotations

import importlib
import os
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

from flowse import __version__, commands
from flowse.cli import COMMANDS, main
from flowse.commands import score
from flowse.errors import UserError
from flowse.refusal import Refusal
from tests.imports import heavy_imports


def test_every_module_of_the_folder_is_a_command_and_every_command_a_module() -> None:
    modules = {module.name for module in pkgutil.iter_modules(commands.__path__)}
    assert {name.replace("-", "_") for name in COMMANDS} == modules
    for name in modules:
        command = importlib.import_module(f"flowse.commands.{name}")
        assert callable(command.add_arguments), name
        assert callable(command.run), name


def test_help_and_version_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    for words, said in (
        (["--version"], f"flowse {__version__}\n"),
        (["--help"], "remove noise and reverberation from recordings"),
        (["enhance", "--help"], "A folder keeps its tree."),
        (["import-official", "--help"], "takes and training starts from (train.init_from)."),
        (["score", "--help"], "Print DNSMOS P.835"),
    ):
        with pytest.raises(SystemExit) as ended:
            main(words)
        assert ended.value.code == 0
        assert said in capsys.readouterr().out


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (UserError("no such\nfolder"), 2, "flowse: no such folder\n"),
        (Refusal("silent", "a.wav: all samples are 0"), 2, "flowse: silent: a.wav: all samples are 0\n"),
        (ImportError("install x"), 2, "flowse: install x\n"),
        (KeyboardInterrupt(), 130, "flowse: interrupted\n"),
    ],
)
def test_errors_become_one_line_and_an_exit_code(
    error: BaseException, code: int, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(_: object) -> int:
        raise error

    monkeypatch.setattr(score, "run", fail)
    assert main(["score", "a.wav"]) == code
    assert capsys.readouterr().err == message


@pytest.mark.parametrize("words", ["--version", "--help", "enhance --help", "push --help"])
def test_help_and_version_import_no_large_library(words: str) -> None:
    assert heavy_imports("flowse.cli", *words.split()) == set()


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("flowse en", {"enhance"}),
        ("flowse enhance --pro", {"--protect"}),
        ("flowse enhance a.wav b.wav --protect l", {"listening"}),
    ],
)
def test_a_shell_is_told_what_may_follow(typed: str, offered: set[str], tmp_path: Path) -> None:
    asked = {"_ARGCOMPLETE": "1", "_ARGCOMPLETE_IFS": "\n", "_ARGCOMPLETE_STDOUT_FILENAME": str(tmp_path / "answer")}
    line = {"COMP_LINE": typed, "COMP_POINT": str(len(typed)), "COMP_TYPE": "9", "_ARGCOMPLETE_SHELL": "bash"}
    subprocess.run([sys.executable, "-m", "flowse"], env={**os.environ, **asked, **line}, check=True, timeout=60)
    assert set((tmp_path / "answer").read_text().split()) == offered


def test_threads_that_wait_do_not_spin_unless_a_person_says_so() -> None:
    code = "import os, sys; sys.argv = ['flowse', '--version']\nfrom flowse.cli import main\ntry:\n    main()\n"
    code += "except SystemExit:\n    print(os.environ['OMP_WAIT_POLICY'], 'torch' in sys.modules)"
    for given, policy in (({}, "PASSIVE"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE")):
        environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"} | given
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
        assert done.stdout.splitlines()[-1] == f"{policy} False"


def test_a_reader_that_has_enough_is_no_error() -> None:
    code = (
        "import sys\nfrom flowse import cli\nfrom flowse.commands import score\n"
        "def run(arguments):\n    for _ in range(100_000):\n        print('file\\t1.0')\n    return 0\n"
        "score.run = run\nsys.exit(cli.main(['score', 'a.wav']))"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as program:
        assert program.stdout is not None
        assert program.stderr is not None
        assert program.stdout.readline() == b"file\t1.0\n"
        program.stdout.close()
        assert program.stderr.read() == b""
        assert program.wait(60) == 0
