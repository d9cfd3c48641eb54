"""Which libraries a command imports: for the laws that some commands answer at once."""

from __future__ import annotations

import subprocess
import sys

HEAVY = frozenset({"torch", "ray", "mlflow", "pandas", "scipy", "matplotlib"})
"""Libraries whose import takes longer than a command that only reads records may take."""


def heavy_imports(*words: str) -> set[str]:
    """Run `python -m WORDS`; return those of `HEAVY` that it imported."""
    command = [sys.executable, "-X", "importtime", "-m", *words]
    traced = subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True).stderr
    names = {line.rpartition("|")[2].strip() for line in traced.splitlines() if line.startswith("import time:")}
    assert words[0].partition(".")[0] in names  # the trace is what it is taken for
    return HEAVY & names
