"""Pools of workers on nodes that come and go: they grow, shrink, and no unit is charged for a node that leaves."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID, FAKE_HEAD_NODE_TYPE

from flowse.errors import UserError
from pipelines.engine import worker_pool
from pipelines.engine.accounts import Tally, UnitReport
from pipelines.engine.cluster import connected_capacity
from pipelines.engine.ray_units import map_units
from pipelines.engine.resources import Resources
from pipelines.engine.stage import UnitOutput
from tests.pipelines.engine.writer import units
from tests.pipelines.raylets import RAY, Raylets, raylets

ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])


class Slow:
    """Writes a file that names its process and its node, once `go` exists or after a moment."""

    def __init__(self, marks: Path, go: Path | None = None) -> None:
        self._marks, self._go = marks, go

    def __call__(self, payload: str, output: UnitOutput) -> UnitReport:
        node = ray.get_runtime_context().get_node_id()
        (self._marks / f"{payload}.{os.getpid()}.{node}").touch()
        end = time.monotonic() + 60
        while self._go is not None and not self._go.exists() and time.monotonic() < end:
            time.sleep(0.05)
        time.sleep(0.1)
        output.path(".txt").write_text(payload)
        return UnitReport(kept=Tally(1, 1.0))


def run(folder: Path, count: int, go: Path | None = None, **options: Any) -> tuple[str, ...]:
    """Do units without a retry; return those that are in quarantine."""
    for name in ("out", "marks"):
        (folder / name).mkdir(exist_ok=True)
    resources = options.pop("resources", Resources())
    outcome = map_units(
        "demo",
        Slow,
        (folder / "marks", go),
        units(count),
        folder=folder / "out",
        notes=folder / "out",
        resources=resources,
        retries=0,
        **options,
    )
    assert len(outcome.records) + len(outcome.quarantined) == count
    return outcome.quarantined


def marks(folder: Path) -> list[tuple[str, int, str]]:
    """Return unit, process and node of every time that a worker had a unit in its hands."""
    names = [path.name.split(".") for path in (folder / "marks").glob("*")]
    return [(unit, int(process), node) for unit, process, node in names]


def soon(condition: Callable[[], Any], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def meanwhile(action: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=action, daemon=True)
    thread.start()
    return thread


@pytest.fixture(scope="class")
def head() -> Iterator[Raylets]:
    """A head without CPUs."""
    with raylets() as cluster:
        yield cluster


@pytest.fixture
def nodes(head: Raylets, monkeypatch: pytest.MonkeyPatch) -> Iterator[Raylets]:
    """The head and one node with one CPU."""
    monkeypatch.setattr(worker_pool, "_LOOK_S", 0.2)
    head.add()
    yield head
    head.end_nodes()


class TestNodesThatComeAndGo:
    def test_a_node_that_joins_gets_units_and_one_that_leaves_costs_no_try(
        self, tmp_path: Path, nodes: Raylets
    ) -> None:
        go = tmp_path / "go"

        def join_and_leave() -> None:
            soon(lambda: len(marks(tmp_path)) == 1)
            joined = nodes.add()
            soon(lambda: len({node for _, _, node in marks(tmp_path)}) == 2)
            nodes.signal(joined, signal.SIGKILL)
            nodes.add()
            soon(lambda: len({node for _, _, node in marks(tmp_path)}) == 3)
            go.touch()

        helper = meanwhile(join_and_leave)
        assert run(tmp_path, 2, go) == ()
        helper.join()
        assert sorted(unit for unit, _, _ in marks(tmp_path)) in (
            ["unit0", "unit0", "unit1"],
            ["unit0", "unit1", "unit1"],
        )

    def test_a_worker_that_is_told_to_stop_hands_its_unit_back_at_once(self, tmp_path: Path, nodes: Raylets) -> None:
        go = tmp_path / "go"

        def tell() -> None:
            soon(lambda: marks(tmp_path))
            ((_, process, _),) = marks(tmp_path)
            os.kill(process, signal.SIGTERM)
            soon(lambda: len(marks(tmp_path)) == 2)  # another process has it before the first could have ended it
            go.touch()

        helper = meanwhile(tell)
        assert run(tmp_path, 1, go) == ()
        helper.join()
        assert not list((tmp_path / "out").glob(".*"))

    @pytest.mark.faults  # a signal to a worker, and a lost node, are tested each alone
    def test_a_node_that_gets_sigterm_with_all_its_processes_costs_no_try(self, tmp_path: Path, nodes: Raylets) -> None:
        """As Slurm does it: every process of the step gets the signal."""
        go = tmp_path / "go"

        def end_node() -> None:
            soon(lambda: marks(tmp_path))
            ((_, _, node),) = marks(tmp_path)
            nodes.signal(node, signal.SIGTERM)
            nodes.add()
            soon(lambda: len(marks(tmp_path)) == 2)
            go.touch()

        helper = meanwhile(end_node)
        assert run(tmp_path, 1, go) == ()
        helper.join()
        assert len({node for _, _, node in marks(tmp_path)}) == 2

    def test_units_of_a_node_that_ray_drains_go_to_another_at_once(self, tmp_path: Path, nodes: Raylets) -> None:
        go = tmp_path / "go"

        def drain() -> None:
            soon(lambda: marks(tmp_path))
            ((_, _, node),) = marks(tmp_path)
            nodes.add()
            notice = ["--node-id", node, "--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "spot"]
            command = [str(RAY), "drain-node", "--address", nodes.address, *notice]
            subprocess.run([*command, "--deadline-remaining-seconds", "600"], check=True, capture_output=True)
            soon(lambda: len(marks(tmp_path)) == 2)
            assert connected_capacity().cores == 1.0
            go.touch()

        helper = meanwhile(drain)
        assert run(tmp_path, 1, go) == ()
        helper.join()
        assert len({node for _, _, node in marks(tmp_path)}) == 2

    def test_a_stage_keeps_to_the_nodes_of_its_kind_and_is_refused_without_one(
        self, tmp_path: Path, nodes: Raylets
    ) -> None:
        large = Resources(node_kind="large")
        with pytest.raises(UserError, match=r"kind 'large'.*cluster.await_nodes_s"):
            run(tmp_path, 1, resources=large)
        added = nodes.add(kinds={"large": 1})
        assert run(tmp_path, 4, resources=large) == ()
        assert {node for _, _, node in marks(tmp_path)} == {added}

    def test_a_run_waits_for_a_node_that_joins_later_and_gives_up_after_a_while(
        self, tmp_path: Path, nodes: Raylets, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(worker_pool, "_NO_NODES_S", 1.0)
        gpu = Resources(num_gpus=1.0)
        with pytest.raises(UserError, match=r"had no node for a worker, which asks for 1 CPUs and 1 GPUs"):
            run(tmp_path, 1, resources=gpu, await_nodes_s=1.5)
        assert "waits for a worker" in capsys.readouterr().out
        helper = meanwhile(lambda: (time.sleep(1), nodes.add(gpus=1))[0])
        assert run(tmp_path, 1, resources=gpu, await_nodes_s=60.0) == ()
        helper.join()


@pytest.fixture
def autoscaled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A head without CPUs, and an autoscaler that may start two nodes with a GPU and takes idle ones away.

    `ray.cluster_utils.AutoscalingCluster` would do, but its `start` stops every other Ray of this machine.
    """
    gpu = {"resources": {"CPU": 1, "GPU": 1}, "node_config": {}, "min_workers": 0, "max_workers": 2}
    nobody = {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0}
    with socket.socket() as listener:
        listener.bind(("", 0))
        port = listener.getsockname()[1]
    commands = [f"{who}{what}" for who in ("", "head_", "worker_") for what in ("setup_commands", "start_ray_commands")]
    settings: dict[str, Any] = {
        "cluster_name": "test",
        "max_workers": 2,
        "upscaling_speed": 1.0,
        "idle_timeout_minutes": 0.05,
        "provider": {
            "type": "fake_multinode",
            "use_node_id_as_ip": True,
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
            "gcs_address": f"{ray.util.get_node_ip_address()}:{port}",
        },
        "available_node_types": {FAKE_HEAD_NODE_TYPE: nobody, "gpu": gpu},
        "head_node_type": FAKE_HEAD_NODE_TYPE,
        "auth": {},
        "docker": {},
        "file_mounts": {},
        "file_mounts_sync_continuously": False,
        **{name: [] for name in (*commands, "initialization_commands", "cluster_synced_files")},
        **{name: [] for name in ("rsync_exclude", "rsync_filter")},
    }
    del settings["start_ray_commands"]
    file = tmp_path / "autoscaler.json"
    file.write_text(json.dumps(settings))
    monkeypatch.setenv("AUTOSCALER_UPDATE_INTERVAL_S", "1")
    monkeypatch.setenv("RAY_FAKE_CLUSTER", "1")
    known = {"RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD_NODE_ID}  # as `ray start` does for this provider
    with raylets(autoscaling_config=str(file), gcs_server_port=port, env_vars=known):
        yield


@pytest.mark.faults  # as where a node joins later, with Ray's own autoscaler
def test_an_autoscaler_brings_nodes_for_a_gpu_stage_and_takes_them_away(tmp_path: Path, autoscaled: None) -> None:
    assert connected_capacity().cores == 0.0
    gpu = Resources(num_gpus=1.0)
    with pytest.raises(UserError, match="let the run wait for nodes"):
        run(tmp_path, 6, resources=gpu)
    go = tmp_path / "go"
    helper = meanwhile(lambda: (soon(lambda: len({node for _, _, node in marks(tmp_path)}) == 2, 120), go.touch())[0])
    assert run(tmp_path, 6, go, resources=gpu, await_nodes_s=120.0) == ()
    helper.join()
    soon(lambda: connected_capacity().gpus == 0.0, 120)
