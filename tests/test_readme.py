"""The README's tree is the repository's: a folder that it does not name, or that is gone, fails here."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def tree_entries() -> list[str]:
    """Paths named in the README's tree, one a line, indented by two spaces a level."""
    block = re.search(r"```tree\n(.*?)```", README, re.DOTALL)
    assert block, "README.md has no ```tree block"
    entries: list[str] = []
    stack: list[str] = []
    for line in block[1].splitlines():
        if not line.strip():
            continue
        depth = (len(line) - len(line.lstrip())) // 2
        name = line.split()[0]
        stack = [*stack[:depth], name.rstrip("/")]
        entries.append("/".join(stack))
    return entries


def test_everything_that_the_tree_names_is_there() -> None:
    missing = [entry for entry in tree_entries() if not (ROOT / entry).exists()]
    assert missing == []


def test_every_source_folder_is_in_the_tree() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.split()
    tops = {path.split("/")[0] for path in listed}
    packages = {"/".join(Path(path).parts[:2]) for path in listed if Path(path).parts[0] in ("flowse", "pipelines")}
    folders = {package for package in packages if (ROOT / package).is_dir()}
    entries = set(tree_entries())
    assert {top for top in tops if (ROOT / top).is_dir() and not top.startswith(".")} <= entries
    assert folders <= entries


def test_the_commands_that_it_shows_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    shown = set(re.findall(r"\bmake ([a-z]+)", README))
    assert shown <= targets, shown - targets
