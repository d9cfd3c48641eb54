"""A cluster whose machines have no disk in common: three raylets, each with temporary files of its own, and a store.

`make test` runs the stages that need no model; `make faults` runs all, and takes a machine away while it adds another.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pipelines.engine.store import Store
from tests.pipelines.engine.s3 import KEYS, s3_server
from tests.pipelines.program import ROOT, words

URL = "s3://bucket/ws"


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """A workspace on an S3 server, which the programs and the raylets find by the environment."""
    with s3_server() as address:
        for key, value in (KEYS | {"AWS_ENDPOINT_URL": address}).items():
            monkeypatch.setenv(key, value)
        monkeypatch.setenv("PYTHONPATH", str(ROOT))  # no program begins in the repository
        yield Store(URL)


@contextmanager
def raylets(folder: Path) -> Iterator[Any]:
    """A head without cores, and two machines of one core; each has a folder of temporary files below `folder`."""
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 1, "include_dashboard": False, "env_vars": temporary(folder, "head")}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        for name in ("left", "right"):
            cluster.add_node(num_cpus=1, env_vars=temporary(folder, name))
        cluster.wait_for_nodes(timeout=60)
        yield cluster
    finally:
        cluster.shutdown()


def temporary(folder: Path, name: str) -> dict[str, str]:
    (folder / name).mkdir()
    return {"TMPDIR": str(folder / name)}


def command(folder: Path, workspace: str, stages: str, **settings: Any) -> list[str]:
    line = [word for word in words(folder, "run", stages, **settings) if not word.startswith("--workspace=")]
    return [*line, f"--workspace={workspace}"]


def run(line: list[str], folder: Path) -> str:
    """Run a command in a folder: the driver's copies lie below it."""
    done = subprocess.run(line, cwd=folder, capture_output=True, text=True, timeout=280, check=False)
    said = done.stdout + done.stderr
    assert done.returncode == 0, f"exit {done.returncode}:\n{said}"
    assert "Traceback" not in said
    return said


def units_in(folder: Path, *stages: str) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for stage in stages
        for path in (folder / stage / "units").iterdir()
        if path.suffix != ".json"
    }


def units_of(store: Store, *stages: str) -> dict[str, bytes]:
    names = [name for stage in stages for name in store.list(f"{stage}/units")]
    return {name.rpartition("@")[0]: store.get(name) for name in names if "@" in name}


def copies(folder: Path, name: str) -> list[str]:
    """Files of units that a machine has made or fetched."""
    return [path.name for path in (folder / name).glob("flowse-copies-*/*/*/units/*")]


def test_machines_without_a_common_disk_write_the_bytes_of_one_folder(store: Store, tmp_path: Path) -> None:
    run(command(tmp_path, f"{tmp_path}/w", "..rooms", **{"cluster.backend": "local"}), tmp_path)
    machines = tmp_path / "machines"
    machines.mkdir()
    with raylets(machines) as cluster:
        said = run(command(tmp_path, URL, "..rooms", **{"cluster.ray_address": cluster.address}), tmp_path)
    assert "3 node(s)" in said
    assert units_of(store, "ingest", "rooms") == units_in(tmp_path / "w", "ingest", "rooms")
    assert sum(bool(copies(machines, name)) for name in ("head", "left", "right")) == 2, "the driver is on the third"


DATA = ("ingest", "rooms", "quality", "filter_language", "transcribe", "simulate")


@pytest.mark.faults
@pytest.mark.timeout(1500)
def test_all_stages_run_while_a_machine_is_lost_and_another_joins(store: Store, tmp_path: Path) -> None:
    run(command(tmp_path, f"{tmp_path}/w", "..simulate", **{"cluster.backend": "local"}), tmp_path)
    machines = tmp_path / "machines"
    machines.mkdir()
    with raylets(machines) as cluster:
        line = command(tmp_path, URL, "..export", **{"cluster.ray_address": cluster.address})
        with started(line, tmp_path) as process:
            wait_for_a_unit(store, "ingest", process)
            lost = cluster.list_all_nodes()[-1]
            cluster.remove_node(lost, allow_graceful=False)
            cluster.add_node(num_cpus=1, env_vars=temporary(machines, "joined"))
            said, _ = process.communicate(timeout=1200)
        assert process.returncode == 0, said
        assert "Traceback" not in said
    assert units_of(store, *DATA) == units_in(tmp_path / "w", *DATA)
    assert copies(machines, "joined"), "the machine that joined has done nothing"
    for stage in ("train", "evaluate", "export"):
        assert any(name.endswith("/STAGE.json") for name in store.list(stage)), stage


@contextmanager
def started(line: list[str], folder: Path) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(line, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def wait_for_a_unit(store: Store, stage: str, process: subprocess.Popen[str]) -> None:
    """Wait until a unit's record is in the store."""
    end = time.monotonic() + 400
    while not any(name.endswith(".json") for name in store.list(f"{stage}/units")):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < end, f"{stage} finished no unit"
        time.sleep(0.05)
