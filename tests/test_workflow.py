"""Laws of the workflow: it runs .ci/run on every Python that the project supports, and what the README installs."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
WORKFLOW = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yaml").read_text(encoding="utf-8"))


def test_every_supported_python_runs_what_must_pass() -> None:
    job = WORKFLOW["jobs"]["ci"]
    required = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["requires-python"]
    low, high = (int(minor) for minor in re.findall(r"3\.(\d+)", required))
    assert job["strategy"]["matrix"]["python"] == [f"3.{minor}" for minor in range(low, high)]
    (runs,) = [step for step in job["steps"] if step.get("run") == ".ci/run"]
    assert runs["env"]["PYTHON"] == "python${{ matrix.python }}"
    assert "PYTHON     ?=" in (ROOT / "Makefile").read_text(encoding="utf-8")


def test_the_library_is_installed_as_the_readme_says() -> None:
    steps = "\n".join(step.get("run", "") for step in WORKFLOW["jobs"]["library"]["steps"])
    block = re.search(r"```sh\n(python3\.11 -m venv venv\n.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert block is not None
    assert block[1].strip() in steps.replace("          ", "")


def test_nothing_may_write_to_the_repository() -> None:
    assert WORKFLOW["permissions"] == {"contents": "read"}
