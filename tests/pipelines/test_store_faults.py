"""The fault matrix of a workspace in a store: whatever happens, a rerun ends with the bytes of a run in a folder.

Real processes are killed and put to sleep, and the S3 server on loopback fails, cuts connections and loses answers.
`make test` runs the rows that need no second driver; `make faults` runs all.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pipelines.engine.store import Store
from tests.pipelines.engine.s3 import KEYS, Proxy, port_of, s3_server
from tests.pipelines.program import ROOT, words, workers_of

UPTO = "..rooms"  # ingest and rooms: they need no model
# The command line with a lease of 8 s: what a lease does, `test_store_lock.py` says; here it is only waited for.
SHORT_LEASE = """
import signal, sys
from pipelines.engine import store_lock
store_lock.BEAT_S, store_lock.LEASE_S = 1.0, 8.0
from pipelines.__main__ import main
signal.signal(signal.SIGTERM, signal.default_int_handler)
sys.exit(main())
"""


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Files of units of a run in a folder, by path."""
    folder = tmp_path_factory.mktemp("undisturbed")
    run(command(folder, f"{folder}/w"))
    return {
        path.relative_to(folder / "w").as_posix(): path.read_bytes()
        for stage in ("ingest", "rooms")
        for path in (folder / "w" / stage / "units").iterdir()
        if path.suffix != ".json"
    }


@pytest.fixture
def url(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The workspace on an S3 server, which the programs find by the environment."""
    with s3_server() as address:
        for key, value in (KEYS | {"AWS_ENDPOINT_URL": address}).items():
            monkeypatch.setenv(key, value)
        yield "s3://bucket/ws"


def command(folder: Path, workspace: str, machine: str = "a", backend: str = "local") -> list[str]:
    """The command line of a run; each machine has a folder of its own."""
    settings = {"cluster.backend": backend, "cluster.scratch": folder / machine, "cluster.num_cpus": 1}
    line = [word for word in words(folder, "run", UPTO, **settings) if not word.startswith("--workspace=")]
    assert line[1:3] == ["-m", "pipelines"]
    return [line[0], "-c", SHORT_LEASE, *line[3:], f"--workspace={workspace}"]


def run(line: list[str], code: int = 0) -> str:
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=280, check=False)
    said = done.stdout + done.stderr
    assert done.returncode == code, f"exit {done.returncode}:\n{said}"
    assert "Traceback" not in said
    return said


@contextmanager
def started(line: list[str]) -> Iterator[subprocess.Popen[Any]]:
    process = subprocess.Popen(line, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def wait_for_a_unit(url: str, stage: str) -> None:
    """Wait until a unit's record is in the store."""
    store, end = Store(url), time.monotonic() + 200
    while not any(name.endswith(".json") for name in store.list(f"{stage}/units")):
        assert time.monotonic() < end, f"{stage} finished no unit"
        time.sleep(0.05)


def content(url: str) -> dict[str, bytes]:
    """Files of units in the store, by the path that they have in a folder."""
    store = Store(url)
    names = [name for stage in ("ingest", "rooms") for name in store.list(f"{stage}/units")]
    return {name.rpartition("@")[0]: store.get(name) for name in names if "@" in name}


def test_a_driver_that_is_killed_is_followed_by_one_on_another_machine(
    undisturbed: dict[str, bytes], url: str, tmp_path: Path
) -> None:
    with started(command(tmp_path, url)) as process:
        wait_for_a_unit(url, "ingest")
        process.send_signal(signal.SIGKILL)
        process.wait()
    said = run(command(tmp_path, url, "b"))
    assert "locked by a run that may be dead" in said
    assert content(url) == undisturbed
    assert "nothing to do" in run(command(tmp_path, url, "c"))


def test_requests_that_fail_are_cut_or_lose_their_answers_change_nothing(
    undisturbed: dict[str, bytes], url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw, guard = random.Random(1), threading.Lock()

    def treat(head: bytes) -> str:
        with guard:
            return draw.choices(["pass", "503", "cut", "deaf"], [85, 5, 5, 5])[0]

    proxy = Proxy(port_of(os.environ["AWS_ENDPOINT_URL"]), treat)
    with monkeypatch.context() as patched, proxy.running() as address:
        patched.setenv("AWS_ENDPOINT_URL", address)
        run(command(tmp_path, url))
    assert {fate for _, fate in proxy.seen} == {"pass", "503", "cut", "deaf"}
    assert content(url) == undisturbed


@pytest.mark.faults
def test_of_two_drivers_that_start_at_once_one_runs(undisturbed: dict[str, bytes], url: str, tmp_path: Path) -> None:
    with started(command(tmp_path, url, "a")) as first, started(command(tmp_path, url, "b")) as second:
        said = {process: process.communicate(timeout=280)[0] for process in (first, second)}
        codes = sorted(process.returncode for process in (first, second))
        assert codes in ([0, 0], [0, 2]), said  # both, if one had ended before the other looked
        if codes == [0, 2]:
            assert any("in use: `python -m pipelines run" in text for text in said.values())
    assert content(url) == undisturbed


@pytest.mark.faults
def test_a_driver_that_sleeps_through_its_lease_publishes_nothing_when_it_wakes(
    undisturbed: dict[str, bytes], url: str, tmp_path: Path
) -> None:
    with started(command(tmp_path, url, "a")) as sleeper:
        wait_for_a_unit(url, "ingest")
        sleeper.send_signal(signal.SIGSTOP)
        run(command(tmp_path, url, "b"))
        before = published(url)
        sleeper.send_signal(signal.SIGCONT)
        said, _ = sleeper.communicate(timeout=280)
        assert sleeper.returncode == 2, said
        assert "has lost the workspace" in said
        assert "Traceback" not in said
    assert published(url) == before
    assert content(url) == undisturbed


@pytest.mark.faults
def test_a_worker_that_is_killed_is_replaced(undisturbed: dict[str, bytes], url: str, tmp_path: Path) -> None:
    with started(command(tmp_path, url, backend="ray")) as process:
        wait_for_a_unit(url, "ingest")
        workers = workers_of(process)
        assert workers, "no worker is at work"
        os.kill(workers[0], signal.SIGKILL)
        said, _ = process.communicate(timeout=280)
        assert process.returncode == 0, said
    assert content(url) == undisturbed


def published(url: str) -> dict[str, str]:
    """All objects that are no unit's, by name, with their etags; the lock aside."""
    return {
        name: entry.etag
        for name, entry in Store(url).list().items()
        if "/units/" not in name and name not in ("LOCK", "LISTED.json")
    }
