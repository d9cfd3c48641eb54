"""Laws of the Makefile: values of SET reach the program as they were typed, and only tests need development tools."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def make(*words: str) -> str:
    """Run make; the environment that it would make counts as made."""
    command = ["make", "--silent", "--no-print-directory", "-C", str(ROOT), *words]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize(
    "value",
    [
        "train.max_steps=5 seed=2",
        "export.title=a  quiet room",
        """a.b=[{"name":"it's","noisy":"/my data"}] c=`x` ; & | > *""",
    ],
)
def test_set_reaches_the_program_as_one_word(value: str, tmp_path: Path) -> None:
    (tmp_path / ".done").touch()
    said = make("status", f"SET={value}", f"VENV={tmp_path}", "RUN=printf '<%s>\\n'")
    assert said.splitlines()[-2:] == ["<--set-all>", f"<{value}>"]
    assert "--set-all" not in make("status", f"VENV={tmp_path}", "RUN=printf '<%s>\\n'")


def test_only_what_tests_and_builds_pages_installs_development_tools() -> None:
    lines = (ROOT / "Makefile").read_text(encoding="utf-8").splitlines()
    targets = [line.partition("  ##")[0].split(":", 1) for line in lines if ":" in line and "  ##" in line]
    needs = {target: of.strip() for target, of in targets}
    assert {needs[target] for target in ("test", "lint", "format", "fuzz", "faults", "docs")} == {"dev"}
    assert {needs[target] for target in ("pipeline", "stage", "status", "ui", "pretrain")} == {"setup"}
