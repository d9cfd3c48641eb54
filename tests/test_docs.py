"""Laws of the pages: every command that they show is one that exists, what can run here runs, and the site builds."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile as sf

from docs.example import make as example
from flowse.cli import main, parser
from pipelines.__main__ import parser as pipelines_parser
from pipelines.experiment import STAGE_NAMES
from tests.small_shards import make_shards

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
INSTALLATION = {
    "python3.11 -m venv venv",
    "pip install .",
    "pip install '.[demo]'",
    "pip install '.[eval]'",
    "pip install torch --index-url https://download.pytorch.org/whl/cpu",
}


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def commands(page: Path) -> list[str]:
    """Return the commands of a page, a line each, without environments' folders and settings before them."""
    lines = "".join(blocks(page, "sh")).replace("\\\n", " ").splitlines()
    without_remarks = [" ".join(re.sub(r"(^|\s+)#.*", "", line).split()) for line in lines]
    single = [command for line in without_remarks for command in line.split(" && ")]
    bare = [re.sub(r"^(?:[A-Z_]+=\S+ )*(?:\.?venv/bin/)?", "", line) for line in single]
    return [line for line in bare if line]


SHOWN = [(page.name, line) for page in PAGES for line in commands(page)]


@pytest.mark.parametrize(("page", "line"), SHOWN)
def test_a_command_that_a_page_shows_exists_and_takes_these_words(page: str, line: str, tmp_path: Path) -> None:
    words = shlex.split(line)
    if words[0] == "make":
        (tmp_path / ".done").touch()
        (tmp_path / ".dev").touch()
        command = ["make", "--dry-run", "-C", str(ROOT), f"VENV={tmp_path}", *words[1:]]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    elif words[0] == "flowse":
        parser().parse_args(words[1:])
    elif words[:3] == ["python", "-m", "pipelines"]:
        pipelines_parser().parse_args(words[3:])
    elif words[:2] == ["python", "-c"]:
        compile(words[2], line, "exec")
    else:
        assert line in INSTALLATION


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The part of a clone that the first example needs, as the current folder."""
    shutil.copytree(ROOT / "docs" / "example", tmp_path / "docs" / "example")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_first_example_runs_as_it_stands(clone: Path) -> None:
    words = next(shlex.split(line) for line in commands(ROOT / "README.md") if line.startswith("flowse enhance"))
    assert main(words[1:]) == 0
    values: dict[str, Any] = {}
    exec(compile(blocks(ROOT / "README.md", "python")[0], "README.md", "exec"), values)
    noisy, rate = sf.read(clone / "docs" / "example" / "noisy.wav", dtype="float32")
    command_line, _ = sf.read(clone / "enhanced.wav", dtype="float32")
    python, _ = sf.read(clone / "enhanced.flac", dtype="float32")
    np.testing.assert_allclose(command_line, python, atol=1 / 32768)  # the two formats round differently
    np.testing.assert_allclose(values["enhanced"], python, atol=1 / 32768)
    assert rate == example.RATE
    assert np.mean(python[: rate // 3] ** 2) < 0.01 * np.mean(noisy[: rate // 3] ** 2)  # before the first word


def test_the_shipped_recording_is_what_its_script_makes() -> None:
    shipped, _ = sf.read(ROOT / "docs" / "example" / "noisy.wav", dtype="float32")
    np.testing.assert_allclose(example.noisy_recording(), shipped, atol=1 / 32768)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # webdataset leaves files to be closed
def test_the_formats_are_read_as_their_page_says(tmp_path: Path) -> None:
    folder = make_shards(tmp_path)
    text = "\n".join(blocks(ROOT / "docs" / "formats.md", "python")).replace("runs/demo/simulate/…", str(folder))
    values: dict[str, Any] = {}
    exec(compile(text, "formats.md", "exec"), values)
    assert len(values["train"]) == 20
    assert values["rate"] == 24_000
    assert len(values["noisy"]) == values["row"].samples
    assert values["example"]["json"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_on_a_page_imports_what_exists(page: Path) -> None:
    for block in blocks(page, "python"):
        tree = ast.parse(block)
        imports = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
        exec(compile(ast.Module(body=list(imports), type_ignores=[]), str(page), "exec"), {})


def test_the_notebooks_cells_run_in_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[object] = []
    stand_in = types.ModuleType("IPython.display")
    for name in ("Audio", "Image"):
        setattr(stand_in, name, lambda data, **options: (len(data), options))
    monkeypatch.setattr(stand_in, "display", shown.append, raising=False)
    monkeypatch.setitem(sys.modules, "IPython", types.ModuleType("IPython"))
    monkeypatch.setitem(sys.modules, "IPython.display", stand_in)
    monkeypatch.chdir(ROOT / "docs" / "notebooks")
    notebook = json.loads((ROOT / "docs" / "notebooks" / "enhance.ipynb").read_text(encoding="utf-8"))
    values: dict[str, Any] = {}
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), "enhance.ipynb", "exec"), values)
            assert cell["outputs"] == []  # what a cell printed is no part of the project
    assert len(shown) == 4
    assert values["enhanced"].shape == values["noisy"].shape == values["gentle"].shape == values["careful"].shape


def test_the_readme_is_short_and_fits_a_screen() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert max(len(line) for line in text.splitlines()) <= 120
    assert len(text.split()) <= 1400
    assert text.index("## Enhance a file in 30 seconds") < 900


def test_links_between_pages_lead_somewhere() -> None:
    broken = [
        (page.name, target)
        for page in PAGES
        for target in re.findall(r"\]\((?!https?:)([^)#]+)[^)]*\)", page.read_text(encoding="utf-8"))
        if not (page.parent / target).exists()
    ]
    assert broken == []


def parts_of(kind: type) -> Iterator[type]:
    """Yield the dataclasses whose keys a configuration has: those that it extends, and those of its keys."""
    yield from (base for base in kind.__mro__[1:] if dataclasses.is_dataclass(base))
    for hint in typing.get_type_hints(kind).values():
        for part in (hint, *typing.get_args(hint)):
            if dataclasses.is_dataclass(part):
                yield part
                yield from parts_of(part)


@pytest.mark.parametrize("stage", STAGE_NAMES)
def test_a_stages_page_has_the_keys_of_all_its_parts(stage: str) -> None:
    page = (ROOT / "docs" / "stages" / f"{stage}.md").read_text(encoding="utf-8")
    config = importlib.import_module(f"pipelines.stages.{stage}").Config
    missing = {f"{part.__module__}.{part.__name__}" for part in parts_of(config)} - set(re.findall(r"::: (\S+)", page))
    assert missing == set()


def test_the_site_builds_strictly_and_every_stage_has_a_page(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    built = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    stages = {path.stem for path in (ROOT / "pipelines" / "stages").glob("*.py")} - {"__init__"}
    for stage in stages:
        page = (tmp_path / "site" / "stages" / stage / "index.html").read_text(encoding="utf-8")
        assert "Reads" in page, stage
        assert f"pipelines.stages.{stage}.Config" in page, stage
    assert "from_pretrained" in (tmp_path / "site" / "api" / "index.html").read_text(encoding="utf-8")
    assert (tmp_path / "site" / "example" / "noisy.wav").exists()
