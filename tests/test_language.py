"""Laws of the language: modules open with a sentence, docstrings explain themselves, names say what they hold."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCES = sorted(path for folder in ("flowse", "pipelines") for path in (ROOT / folder).rglob("*.py"))
ALL = [*SOURCES, *sorted((ROOT / "tests").rglob("*.py"))]
EMPTY_PHRASES = re.compile(r"\b(See there|[Ll]ikewise)\b")


@functools.cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def places(paths: list[Path]) -> Iterator[tuple[str, ast.AST]]:
    """Yield every node of the files with its place in them."""
    for path in paths:
        for node in ast.walk(parsed(path)):
            yield f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 1)}", node


def is_public(node: ast.AST) -> bool:
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return isinstance(node, kinds) and not node.name.startswith("_")


def test_every_module_opens_with_a_sentence() -> None:
    modules = [(place, ast.get_docstring(node) or "") for place, node in places(ALL) if isinstance(node, ast.Module)]
    assert [place for place, docstring in modules if docstring.split("\n\n")[0][-1:] not in (".", "?", ":")] == []


def test_no_docstring_leaves_its_meaning_to_another() -> None:
    documented = (ast.Module, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    found = [(place, ast.get_docstring(node) or "") for place, node in places(SOURCES) if isinstance(node, documented)]
    assert [place for place, docstring in found if EMPTY_PHRASES.search(docstring)] == []


def test_every_public_function_of_a_module_has_a_docstring() -> None:
    modules = [(place, node) for place, node in places(SOURCES) if isinstance(node, ast.Module)]
    public = [(place.rpartition(":")[0], child) for place, node in modules for child in node.body if is_public(child)]
    assert [f"{file}:{node.lineno} {node.name}" for file, node in public if not ast.get_docstring(node)] == []


def test_no_variable_is_named_one() -> None:
    bound = [
        place
        for place, node in places(ALL)
        if (isinstance(node, ast.Name) and node.id == "one" and isinstance(node.ctx, ast.Store))
        or (isinstance(node, ast.arg) and node.arg == "one")
    ]
    assert bound == []
