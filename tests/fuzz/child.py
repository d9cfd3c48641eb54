"""The process that carries out cases, one after the other, through the real command line; the fuzzer may kill it.

It reads a JSON line a case from standard input, {"number": …, "kind": …}, and answers with one on standard output.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import resource
import shutil
import sys
import traceback
import warnings
from pathlib import Path
from typing import Any

DATA_LIMIT = 6 << 30
"""Bytes of memory that the process may have of its own."""
FILE_LIMIT = 1 << 30
"""Bytes that a file may have that it writes."""


def outcome_of(program: str, arguments: list[str]) -> tuple[str, str]:
    """Run a command in this process; return its outcome and all that it printed.

    Returns:
        "ok", "reject", "error" or "traceback", and the text.
    """
    from flowse.cli import main as flowse_main
    from pipelines.__main__ import main as pipelines_main

    said, complained = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2))
    trace = ""
    code: object = None
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(complained):
        try:
            code = (pipelines_main if program == "pipelines" else flowse_main)(arguments)
        except SystemExit as stop:
            code = stop.code
        except BaseException:  # noqa: BLE001 - whatever leaves the program is what is looked for
            trace = traceback.format_exc()
    texts = [stream.buffer.getvalue().decode("utf-8", "replace") for stream in (said, complained)]  # type: ignore[attr-defined]
    text = "\n".join([*texts, trace])
    return classify(code, texts[1], text), text


def classify(code: object, complaint: str, text: str) -> str:
    """Name the outcome of a command by its exit code, standard error and all that it printed."""
    if "Traceback (most recent call last)" in text or " quarantined after " in text:
        return "traceback"
    if code == 0:
        return "reject" if "dropped: " in text or "failed: " in text else "ok"
    if code == 1 and ("BAD  " in text or "ERROR  " in text):  # `verify` and `doctor` say what they found
        return "reject"
    errors = [line for line in complaint.splitlines() if line.startswith(("error: ", "flowse: "))]
    return "error" if code in (1, 2) and errors and complaint.rstrip().endswith(errors[-1]) else "traceback"


def carry_out(seed: int, number: int, kind: str, seeds: Path, scratch: Path) -> dict[str, Any]:
    """Make a case, run it and clean up behind it; a case that fails keeps its folder."""
    from tests.fuzz.cases import make

    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    case = make(kind, seeds, scratch, random.Random(f"{seed} {number} {kind}"))
    outcome, text = outcome_of(case.program, case.arguments)
    return {"outcome": outcome, "text": text, "command": [case.program, *case.arguments], "damaged": str(case.damaged)}


def untracked() -> None:
    """Leave MLflow and git out of runs: they read no input, and cost seconds."""
    from pipelines.engine import runner, tracking

    class Nowhere(tracking.Experiment):
        @contextlib.contextmanager
        def stage(self, name: str, tags: Any) -> Any:
            yield tracking.Untracked()

    runner.Experiment = Nowhere  # type: ignore[misc]
    runner.code_commit = lambda: "fuzz"


def limit_time(seconds: float) -> None:
    """Let the kernel end this process when the next case has taken so many seconds of the processor."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    _, most = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (int(used.ru_utime + used.ru_stime + seconds) + 1, most))


def main(seed: int, seeds: Path, scratch: Path, limit_s: float) -> None:
    """Answer cases until standard input ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    with (scratch.parent / f"{scratch.name}.log").open("ab") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    resource.setrlimit(resource.RLIMIT_DATA, (DATA_LIMIT, DATA_LIMIT))
    resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_LIMIT, FILE_LIMIT))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    warnings.simplefilter("ignore")
    untracked()
    for line in sys.stdin:
        asked = json.loads(line)
        limit_time(limit_s)
        answer = carry_out(seed, asked["number"], asked["kind"], seeds, scratch)
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), float(sys.argv[4]))
