"""Say on which machine a benchmark ran, what else it was doing, and print tables."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Sequence
from pathlib import Path


def _jiffies() -> tuple[int, int]:
    """Processor time spent working and in all, of all cores (Linux)."""
    fields = [int(value) for value in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    return sum(fields) - fields[3] - fields[4], sum(fields)


def describe() -> str:
    """One line: processor, cores, memory, and how many cores other programs take right now."""
    model = platform.processor() or platform.machine()
    if (info := Path("/proc/cpuinfo")).exists():
        names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    before = _jiffies()
    time.sleep(1.0)
    after = _jiffies()
    cores = os.cpu_count() or 1
    busy = cores * (after[0] - before[0]) / max(1, after[1] - before[1])
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{model}, {cores} cores, {memory:.0f} GiB; other programs take {busy:.1f} cores"


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Write a table, the first column to the left and the others to the right."""
    widths = [max(len(row[column]) for row in (heads, *rows)) for column in range(len(heads))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in (heads, *rows)
    )
