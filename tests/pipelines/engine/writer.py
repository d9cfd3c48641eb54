"""A worker that writes its payload or does what goes wrong in practice, for the tests of those who run units."""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path

from flowse.data.manifest import Reject
from flowse.errors import UserError
from pipelines.engine.accounts import StageReport, Tally, UnitReport
from pipelines.engine.backend import UnitRunner
from pipelines.engine.resources import Resources
from pipelines.engine.stage import Unit, UnitOutput


class Writer:
    """Writes its payload; `trouble` names a unit and what goes wrong there the first time.

    Files in `marks` say which units a worker has had in its hands.
    """

    def __init__(self, trouble: dict[str, str], marks: Path) -> None:
        if "setup" in trouble:
            raise FileNotFoundError(f"no model at {trouble['setup']}")
        self._trouble, self._marks = trouble, marks

    def __call__(self, payload: str, output: UnitOutput) -> UnitReport:
        output.path(".txt").write_text(payload)
        mark = self._marks / payload
        seen = mark.exists()
        mark.touch()
        trouble = self._trouble.get(payload, "")
        if trouble == "kill" and not seen:
            os.kill(os.getpid(), signal.SIGKILL)
        if trouble == "hang" and not seen:
            time.sleep(60)
        if trouble == "raise once" and not seen:
            raise RuntimeError("passing weakness")
        if trouble == "raise":
            raise RuntimeError("a bug in the worker")
        if trouble == "disk":
            raise OSError(errno.ENOSPC, "No space left on device")
        if trouble == "user":
            raise UserError("corpus 'x': mend it")
        if trouble == "reject":
            reject = Reject(utt_id=payload, corpus="c", stage="s", kind="failed", reason="undecodable", duration_s=1.0)
            return UnitReport(kept=Tally(), rejects=(reject,))
        return UnitReport(kept=Tally(1, 1.0), metrics={"bytes": len(payload)})


def units(count: int) -> list[Unit[str]]:
    return [Unit(f"part-{number}", f"unit{number}", Tally(1, 1.0), f"unit{number}") for number in range(count)]


def run_writer(
    map_units: UnitRunner, folder: Path, count: int, resources: Resources | None = None, **trouble: str
) -> StageReport:
    """Let a runner write units into `folder/out`, with one retry."""
    for name in ("out", "marks"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    return map_units(
        "demo",
        Writer,
        (trouble, folder / "marks"),
        units(count),
        folder=folder / "out",
        notes=folder / "out",
        resources=resources or Resources(workers=2),
        retries=1,
    ).report


def contents(folder: Path) -> Mapping[str, bytes]:
    """Return every visible file of `folder/out` with its bytes."""
    return {path.name: path.read_bytes() for path in (folder / "out").iterdir() if not path.name.startswith(".")}
