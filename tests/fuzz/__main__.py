"""Damage inputs of every kind by a seed, feed them to the real command line, and count what it makes of them.

Exit code 1 if a case ended in a traceback, a hang or a crash; each is kept in a folder and can be made again alone.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import Any

ROOT = Path(__file__).parents[2]
OUTCOMES = ("ok", "reject", "error", "traceback", "hang", "crash")
BAD = ("traceback", "hang", "crash")


class Child:
    """A process that carries out cases; it is started anew after a hang, a crash or many cases."""

    def __init__(self, seed: int, seeds: Path, scratch: Path, limit_s: float) -> None:
        self._words = [sys.executable, "-m", "tests.fuzz.child", str(seed), str(seeds), str(scratch), str(limit_s)]
        self._log, self._limit_s = scratch.with_name(f"{scratch.name}.log"), limit_s
        self._process: subprocess.Popen[bytes] | None = None
        self._cases = 0

    def __call__(self, number: int, kind: str) -> dict[str, Any]:
        """Carry out a case; `outcome` of the answer is one of `OUTCOMES`."""
        if self._cases == 500:  # what leaks must not add up to a crash of an innocent case
            self.close()
        process = self._process = self._process or self._start()
        self._cases += 1
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps({"number": number, "kind": kind}).encode() + b"\n")
        process.stdin.flush()
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            # The process limits its own time on the processor; this is for one that waits, on a busy machine.
            answered = selector.select(10 * self._limit_s)
        line = process.stdout.readline() if answered else b""
        if line:
            answer: dict[str, Any] = json.loads(line)
            return answer
        code = process.wait() if answered else None
        self.close()
        if code in (None, -signal.SIGXCPU):
            return {"outcome": "hang", "text": f"no answer within {self._limit_s:g} s", "command": [], "damaged": ""}
        said = self._log.read_text(encoding="utf-8", errors="replace")[-2000:] if self._log.exists() else ""
        return {"outcome": "crash", "text": f"{said}\nthe process ended with {code}", "command": [], "damaged": ""}

    def _start(self) -> subprocess.Popen[bytes]:
        self._cases = 0
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            "MLFLOW_DISABLE_TELEMETRY": "true",
        }
        return subprocess.Popen(self._words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT, env=environment)

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None
            self._cases = 0


def fuzz(
    seed: int,
    numbers: Sequence[int],
    output: Path,
    kinds: Sequence[str] = (),
    limit_s: float = 30.0,
    keep: Sequence[str] = BAD,
    jobs: int = 1,
) -> tuple[dict[str, Counter[str]], list[Path]]:
    """Carry out the cases of these numbers; return the outcomes by kind, and the folders of the cases that failed.

    A case is a function of seed and number alone.

    Args:
        seed: Other seeds damage in other ways.
        numbers: Which cases; the kinds take turns.
        output: Folder of the cases that failed.
        kinds: Only these; empty: all.
        limit_s: Time of the processor for one case, in seconds; ten times as long by the clock.
        keep: Outcomes whose cases are kept.
        jobs: Processes that carry out cases.
    """
    from tests.fuzz.cases import KINDS
    from tests.fuzz.seeds import build

    names = list(KINDS)
    failed: list[Path] = []
    counts: dict[str, Counter[str]] = {name: Counter() for name in names if not kinds or name in kinds}
    with tempfile.TemporaryDirectory(prefix="flowse-fuzz-") as place:
        seeds = Path(place, "seeds")
        seeds.mkdir()
        with (
            Path(os.devnull).open("w") as nothing,
            contextlib.redirect_stdout(nothing),
            contextlib.redirect_stderr(nothing),
        ):
            build(seeds)
        waiting = ((number, kind) for number in numbers if (kind := names[number % len(names)]) in counts)
        one_at_a_time = Lock()

        def next_case() -> tuple[int, str] | None:
            with one_at_a_time:
                return next(waiting, None)

        def work(job: int) -> None:
            scratch = Path(place, f"case-{job}")
            child = Child(seed, seeds, scratch, limit_s)
            try:
                for number, kind in iter(next_case, None):
                    answer = child(number, kind)
                    with one_at_a_time:
                        counts[kind][answer["outcome"]] += 1
                    if answer["outcome"] in keep:
                        kept = _keep(output / f"{seed}-{number}-{kind.replace(' ', '-')}", answer, scratch)
                        failed.append(kept)
                        print(f"{answer['outcome']:<10} {kind:<14} {kept}: {_last_line(answer['text'])}", flush=True)
            finally:
                child.close()

        with ThreadPoolExecutor(jobs) as pool:
            for _ in pool.map(work, range(jobs)):
                pass
    return counts, failed


def _keep(folder: Path, answer: dict[str, Any], scratch: Path) -> Path:
    """Keep the command, what it printed and the damaged file."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "command.txt").write_text(" ".join(answer["command"]) + "\n", encoding="utf-8")
    (folder / "printed.txt").write_text(answer["text"], encoding="utf-8", errors="replace")
    if answer["damaged"]:
        with contextlib.suppress(OSError):
            shutil.copy2(answer["damaged"], folder)
    else:  # killed: everything that the case has written
        shutil.copytree(scratch, folder / "case", dirs_exist_ok=True, ignore_dangling_symlinks=True)
    return folder


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1][:200] if lines else ""


def table(counts: dict[str, Counter[str]]) -> str:
    """Write the outcomes by kind, with a line for their sum."""
    total: Counter[str] = sum(counts.values(), Counter())
    lines = [f"{'kind':<14}" + "".join(f"{outcome:>11}" for outcome in ("inputs", *OUTCOMES))]
    for kind, found in [*((name, found) for name, found in counts.items() if found), ("all", total)]:
        lines.append(f"{kind:<14}{found.total():>11}" + "".join(f"{found[outcome]:>11}" for outcome in OUTCOMES))
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the fuzzer; the exit code is 1 if a case ended in a traceback, a hang or a crash."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=2000, help="cases (default: %(default)s)")
    parser.add_argument("--only", type=int, metavar="N", help="case N alone, with all that it prints")
    parser.add_argument("--kind", action="append", default=[], help="only this kind; repeatable")
    parser.add_argument("--output", type=Path, default=Path("fuzz-failures"), help="folder of the cases that failed")
    parser.add_argument(
        "--limit", type=float, default=30.0, help="seconds of the processor for one case (default: %(default)s)"
    )
    parser.add_argument("--jobs", type=int, default=1, help="processes (default: %(default)s)")
    asked = parser.parse_args(arguments)
    begun = time.monotonic()
    numbers: Sequence[int] = range(asked.count) if asked.only is None else [asked.only]
    keep = BAD if asked.only is None else OUTCOMES
    counts, failed = fuzz(asked.seed, numbers, asked.output, asked.kind, asked.limit, keep, asked.jobs)
    print(table(counts))
    print(
        f"seed {asked.seed}, {sum(found.total() for found in counts.values())} inputs, {time.monotonic() - begun:.0f} s"
    )
    if asked.only is not None and failed:
        print((failed[0] / "printed.txt").read_text(encoding="utf-8", errors="replace"))
    bad = sum(found[outcome] for found in counts.values() for outcome in BAD)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
