"""The fault matrix: whatever dies at whatever stage, a rerun ends with the bytes of an undisturbed run.

Real processes are killed, a real file system fills up, a real node of a Ray cluster is lost. `make test` runs one cell
of each row; `make faults` runs all.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pipelines.engine.units import UNITS
from pipelines.engine.workspace import open_stage, units_of
from tests.pipelines.program import STAGES, call, running, stage_folder, states, workers_of

MATRIX_STAGES = ("ingest", "transcribe", "simulate")
# The cells that `make test` runs: each fault once, each stage twice.
DIAGONAL = {
    ("driver_killed", "simulate"),
    ("worker_killed", "transcribe"),
    ("node_lost", "ingest"),
    ("disk_full", "transcribe"),
    ("worker_hung", "simulate"),
    ("part_corrupted", "ingest"),
}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in whose workspace the data stages have run once, and nothing went wrong."""
    folder = tmp_path_factory.mktemp("undisturbed")
    call(folder, "run", "..simulate")
    return folder


def before(stage: str, undisturbed: Path, folder: Path) -> None:
    """Copy the workspace as it was before a stage."""
    shutil.copytree(undisturbed, folder, dirs_exist_ok=True)
    for later in STAGES[STAGES.index(stage) :]:
        shutil.rmtree(folder / "w" / later, ignore_errors=True)
    if stage == "ingest":
        shutil.rmtree(folder / "w" / "made")


def content(folder: Path, stage: str) -> dict[str, bytes]:
    """Every file that a stage's record names."""
    done = open_stage(stage_folder(folder, stage))
    assert done is not None
    assert done.verify() == []  # nothing wrong, nothing missing, nothing surplus
    paths = [done.folder / name for name in done.record.files]
    paths += [units_of(done.folder) / name for name in done.table.file_names()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def wait_for_a_unit(folder: Path, stage: str) -> Path:
    """Wait until a stage is in the middle of its work; return its folder."""
    end = time.monotonic() + 200
    while time.monotonic() < end:
        for record in (folder / "w" / stage / UNITS).glob("[!.]*.json"):
            return record.parent
        time.sleep(0.005)
    raise TimeoutError(f"{stage} finished no unit")


def driver_killed(stage: str, folder: Path) -> None:
    with running(folder, "run", stage) as process:
        wait_for_a_unit(folder, stage)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert states(folder)[STAGES.index(stage)] == "incomplete"
    call(folder, "run", stage)


def worker_killed(stage: str, folder: Path) -> None:
    with running(folder, "run", stage) as process:
        wait_for_a_unit(folder, stage)
        workers = workers_of(process)
        assert workers, "no worker is at work"
        os.kill(workers[0], signal.SIGKILL)
        assert process.wait(timeout=200) == 0  # replaced within the run


def worker_hung(stage: str, folder: Path) -> None:
    """A worker that stands still for ever, as in a decode that never returns or a read from a dead file server."""
    with running(folder, "run", stage, **{f"cluster.stages.{stage}.unit_timeout_s": 12.0}) as process:
        wait_for_a_unit(folder, stage)
        workers = workers_of(process)
        assert workers, "no worker is at work"
        os.kill(workers[0], signal.SIGSTOP)
        assert process.wait(timeout=240) == 0  # given up after the time limit, replaced within the run


def node_lost(stage: str, folder: Path) -> None:
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
        cluster.wait_for_nodes(timeout=60)
        with running(folder, "run", stage, **{"cluster.ray_address": cluster.address}) as process:
            wait_for_a_unit(folder, stage)
            cluster.remove_node(nodes[0], allow_graceful=False)
            assert process.wait(timeout=240) == 0  # the other nodes do its work
    finally:
        cluster.shutdown()


def part_corrupted(stage: str, folder: Path) -> None:
    """A flipped byte in one part, another part cut short."""
    call(folder, "run", stage)
    done = open_stage(stage_folder(folder, stage))
    assert done is not None
    parts = done.table.file_names()
    flipped, cut = (units_of(done.folder) / parts[index] for index in (0, -1))
    damaged = bytearray(flipped.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    flipped.write_bytes(damaged)
    os.truncate(cut, cut.stat().st_size // 2)
    said = call(folder, "verify", "--mend", code=1)
    assert "sha256" in said
    assert "truncated" in said
    call(folder, "run", stage)


@contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    mount = ["mount", "-t", "tmpfs", "-o", "size=200m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("a small file system cannot be mounted here (needs root)")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def disk_full(stage: str, folder: Path) -> None:
    """The workspace's disk has room for a file or two and no more; then somebody makes room."""
    ballast = folder / "w" / "ballast"
    with ballast.open("wb") as file:
        free = shutil.disk_usage(folder / "w").free
        file.write(bytes(free - 24 * 1024))
    said = call(folder, "run", stage, code=2)
    assert "disk is full" in said or "No space left" in said
    ballast.unlink()
    call(folder, "run", stage)


FAULTS: tuple[Callable[[str, Path], None], ...] = (
    driver_killed,
    worker_killed,
    worker_hung,
    node_lost,
    part_corrupted,
    disk_full,
)


def cells() -> Iterator[Any]:
    for fault in FAULTS:
        for stage in MATRIX_STAGES:
            marks = () if (fault.__name__, stage) in DIAGONAL else pytest.mark.faults
            yield pytest.param(stage, fault, marks=marks, id=f"{fault.__name__}-{stage}")


@pytest.mark.parametrize(("stage", "fault"), list(cells()))
def test_after_a_fault_a_rerun_ends_with_the_same_bytes(
    stage: str, fault: Callable[[str, Path], None], undisturbed: Path, tmp_path: Path
) -> None:
    if fault is disk_full:
        with small_disk(tmp_path):
            before(stage, undisturbed, tmp_path)
            fault(stage, tmp_path)
            assert content(tmp_path, stage) == content(undisturbed, stage)
        return
    before(stage, undisturbed, tmp_path)
    fault(stage, tmp_path)
    assert content(tmp_path, stage) == content(undisturbed, stage)


def test_every_fault_and_every_stage_is_in_the_tests_that_always_run() -> None:
    assert {fault for fault, _ in DIAGONAL} == {fault.__name__ for fault in FAULTS}
    assert {stage for _, stage in DIAGONAL} == set(MATRIX_STAGES)
