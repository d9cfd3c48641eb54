"""Benchmarks take minutes and no test runs them: what they import of this project is there, at least."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BENCHMARKS = sorted((ROOT / "tests" / "benchmarks").glob("*.py"))


def source_of(module: str) -> Path | None:
    """The file of a module of this project; none for other packages and for folders without a module of their own."""
    path = ROOT.joinpath(*module.split("."))
    found = [file for file in (path.with_suffix(".py"), path / "__init__.pyi", path / "__init__.py") if file.exists()]
    return found[0] if found else None


def names_in(source: Path) -> set[str]:
    """Every name that a module binds anywhere at its top, also below an `if` or `try`."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names |= {(alias.asname or alias.name).partition(".")[0] for alias in node.names}
    return names


@pytest.mark.parametrize("benchmark", BENCHMARKS, ids=lambda path: path.stem)
def test_what_a_benchmark_imports_is_there(benchmark: Path) -> None:
    for node in ast.walk(ast.parse(benchmark.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.ImportFrom) or not (node.module or "").startswith(("flowse", "pipelines", "tests")):
            continue
        module = str(node.module)
        source = source_of(module)
        bound = names_in(source) if source else set()
        for alias in node.names:
            there = alias.name in bound or source_of(f"{module}.{alias.name}") is not None
            assert there, f"line {node.lineno}: {module} has no {alias.name}"
