"""Laws of extras: a failing import names the extra, that extra has the package, and every package is of one."""

from __future__ import annotations

import ast
import importlib.util
import re
import sys
import tomllib
from pathlib import Path

import pytest

from flowse import extras

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
DISTRIBUTION_OF = {
    "espeakng_loader": "espeakng-loader",
    "faster_whisper": "faster-whisper",
    "tensorboardX": "tensorboardx",
    "whisper": "openai-whisper",
    "yaml": "pyyaml",
}
WITHOUT_ITS_EXTRA = {"ctranslate2": "faster"}
"""Packages that come with another one of the extra."""
# argcomplete is there where a shell asks, and the others come with Ray, MLflow, lhotse, jinja2, boto3 or torch.
DEPENDENCIES_OF_OTHERS = {
    "PIL",
    "argcomplete",
    "botocore",
    "cloudpickle",
    "fsspec",
    "kaldi_native_io",
    "markupsafe",
    "numba",
    "psutil",
    "requests",
    "sqlalchemy",
}


def names_of(requirements: list[str]) -> set[str]:
    return {re.split(r"[\[><=~;! ]", wanted)[0].lower() for wanted in requirements}


def test_a_failing_import_in_our_modules_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(extras.EXTRA_OF, "no_such_package", "eval")
    for statement in ("import no_such_package", "import importlib; importlib.import_module('no_such_package')"):
        for ours in ("flowse.metrics.x", "flowse", "pipelines.stages.x"):
            with pytest.raises(ModuleNotFoundError, match=r"pip install 'flowse-pipeline\[eval\]'") as error:
                exec(statement, {"__name__": ours})
            assert error.value.name == "no_such_package"
        for other in ("flowser", "__main__", "torch.x"):
            with pytest.raises(ModuleNotFoundError, match=r"^No module named 'no_such_package'$"):
                exec(statement, {"__name__": other})
    assert importlib.util.find_spec("no_such_package") is None


def test_whether_a_package_is_there_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(extras.EXTRA_OF, "no_such_package", "eval")
    values = {"__name__": "flowse.x"}
    exec("import importlib.util; found = importlib.util.find_spec('no_such_package')", values)
    assert values["found"] is None


def test_every_extra_has_what_it_is_named_for() -> None:
    listed = PROJECT["optional-dependencies"]
    assert [
        (package, extra)
        for package, extra in extras.EXTRA_OF.items()
        if DISTRIBUTION_OF.get(package, package) not in names_of(listed[extra])
        and WITHOUT_ITS_EXTRA.get(package) != extra
    ] == []


def test_every_package_that_is_imported_is_a_dependency_or_of_an_extra() -> None:
    imported = set()
    for path in [*(ROOT / "flowse").rglob("*.py"), *(ROOT / "pipelines").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                imported.add(node.module.partition(".")[0])
    always = names_of(PROJECT["dependencies"])
    unknown = {
        name
        for name in imported - sys.stdlib_module_names - {"flowse", "pipelines"} - set(extras.EXTRA_OF)
        if DISTRIBUTION_OF.get(name, name) not in always
    }
    assert unknown - DEPENDENCIES_OF_OTHERS == set()
