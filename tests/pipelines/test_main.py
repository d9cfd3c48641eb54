"""The command line: every command has its module, and what goes wrong is one line and an exit code."""

from __future__ import annotations

import argparse
import errno
import importlib
import os
import pkgutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from flowse.data.manifest import Reject
from flowse.errors import UserError
from pipelines import commands
from pipelines.__main__ import COMMANDS, main, parser
from pipelines.commands import status
from pipelines.engine.accounts import Tally, UnitReport
from pipelines.experiment import STAGES, load_experiment
from tests.imports import heavy_imports
from tests.pipelines.two_stages import carry_out

# Modules that commands share; all others are commands.
SHARED = {"session", "preview"}
DEMO = Path(__file__).parents[2] / "configs" / "experiment" / "demo.yaml"


def test_every_module_of_the_folder_is_a_command_and_every_command_a_module() -> None:
    modules = {module.name for module in pkgutil.iter_modules(commands.__path__)} - SHARED
    assert {name.replace("-", "_") for name in COMMANDS} == modules
    for name in modules:
        command = importlib.import_module(f"pipelines.commands.{name}")
        assert callable(command.add_arguments), name
        assert callable(command.run), name


def test_the_parsed_arguments_hold_the_run_of_their_command() -> None:
    further = {
        "explain": ["rooms"],
        "lineage": ["--utterance", "u"],
        "export-cuts": ["ingest", "cuts.jsonl"],
        "unpack-enhanced": ["out"],
    }
    for name in COMMANDS:
        parsed = parser().parse_args([name, *further.get(name, []), "--set", "train.max_steps=5"])
        assert parsed.run is importlib.import_module(f"pipelines.commands.{name.replace('-', '_')}").run
        assert parsed.overrides == ["train.max_steps=5"]
        assert parsed.experiment == Path("configs/experiment/demo.yaml")


@pytest.mark.parametrize("words", [[], ["bake"], ["status", "--jsno"], ["explain", "bake"]])
def test_unknown_words_end_with_code_2_and_the_usage(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("usage: python -m pipelines")


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (UserError("the file is gone; fetch it"), 2, "error: the file is gone; fetch it\n"),
        (OSError(errno.ENOSPC, "No space left", "/w/x"), 2, "error: /w/x: No space left; mend that and run again"),
        (KeyboardInterrupt(), 130, "interrupted; finished units are kept"),
    ],
)
def test_errors_become_one_line_and_an_exit_code(
    error: BaseException, code: int, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(_: argparse.Namespace) -> int:
        raise error

    monkeypatch.setattr(status, "run", fail)
    assert main(["status"]) == code
    captured = capsys.readouterr()
    said = captured.err + captured.out
    assert message in said
    assert said.count("\n") == 1


def test_a_reader_that_goes_away_is_no_error(tmp_path: Path) -> None:
    """`python -m pipelines status | head` closes the pipe; that shows when the output is flushed, unless unbuffered."""
    words = [sys.executable, "-m", "pipelines", "status", f"--experiment={DEMO}", f"--workspace={tmp_path}"]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    for unbuffered in ({}, {"PYTHONUNBUFFERED": "1"}):
        reader, writer = os.pipe()
        os.close(reader)
        ended = subprocess.run(
            words, stdout=writer, stderr=subprocess.PIPE, text=True, env=environment | unbuffered, check=False
        )
        os.close(writer)
        assert (ended.returncode, ended.stderr) == (0, "")


def test_errors_of_the_program_itself_keep_their_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: argparse.Namespace) -> Any:
        raise OSError(errno.EBADF, "Bad file descriptor")

    monkeypatch.setattr(status, "run", fail)
    with pytest.raises(OSError, match="Bad file descriptor"):
        main(["status"])


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace of the demo in which ingest is finished and has rejected a recording."""
    workspace = tmp_path_factory.mktemp("finished")
    reject = Reject(utt_id="u", corpus="c", stage="ingest", kind="dropped", reason="silent", duration_s=3600.0)
    report = UnitReport(kept=Tally(1, 3600.0), rejects=(reject,))
    carry_out(workspace, load_experiment(DEMO), "ingest", stages=STAGES, report=report)
    return workspace


@pytest.mark.parametrize("words", [["--help"], ["status"], ["status", "--json"], ["explain", "train"], ["rejects"]])
def test_commands_that_only_read_records_import_no_large_library(words: list[str], finished: Path) -> None:
    where = [] if words == ["--help"] else [f"--experiment={DEMO}", f"--workspace={finished}"]
    assert heavy_imports("pipelines", *words, *where) == set()
