"""A Ray cluster of processes on this machine whose nodes have made-up resources, and come and go as a test says."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import ray
from ray.cluster_utils import Cluster

RAY = Path(sys.executable).parent / "ray"
_PATIENCE_S = 120.0


def alive() -> set[str]:
    """Return the ids of the nodes that live."""
    return {node["NodeID"] for node in ray.nodes() if node["Alive"]}


class Raylets:
    """A head without CPUs, and nodes.

    Attributes:
        address: Of the head.
        processes: `ray start` of every node by its id, each in a session of its own.
    """

    def __init__(self, **head: Any) -> None:
        """Start the head and connect this process to it.

        Args:
            head: Further parameters of the head, as `ray._private.parameter.RayParams` has them.
        """
        options = {"num_cpus": 0, "object_store_memory": 80_000_000, "include_dashboard": False}
        self._head = Cluster(initialize_head=True, head_node_args=options | head)
        self.address: str = self._head.address
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        ray.init(address=self.address, log_to_driver=False, logging_level="ERROR")

    def _start(self, options: list[str]) -> subprocess.Popen[bytes]:
        command = [str(RAY), "start", "--block", "--object-store-memory", "80000000", "--disable-usage-stats"]
        workers = ["--min-worker-port", "0", "--max-worker-port", "0"]
        quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        return subprocess.Popen([*command, *workers, *options], start_new_session=True, **quiet)  # type: ignore[call-overload, no-any-return]

    def add(self, cpus: int = 1, gpus: int = 0, kinds: Mapping[str, float] | None = None) -> str:
        """Start a node, wait until it is there, and return its id."""
        before = alive()
        numbers = ["--num-cpus", str(cpus), "--num-gpus", str(gpus)]
        process = self._start(["--address", self.address, *numbers, "--resources", json.dumps(kinds or {})])
        end = time.monotonic() + _PATIENCE_S
        while not (new := alive() - before):
            assert time.monotonic() < end, "the node did not start"
            time.sleep(0.2)
        (node,) = new
        self.processes[node] = process
        return node

    def signal(self, node: str, number: int) -> None:
        """Send a signal to all processes of a node."""
        os.killpg(self.processes[node].pid, number)

    def end_nodes(self) -> None:
        """End all nodes but the head, and wait until they are gone."""
        for process in self.processes.values():
            process.send_signal(signal.SIGTERM)
        for process in self.processes.values():
            with suppress(subprocess.TimeoutExpired):
                process.wait(20)
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        end = time.monotonic() + _PATIENCE_S
        while alive() & self.processes.keys():
            assert time.monotonic() < end, "a node did not end"
            time.sleep(0.2)
        self.processes.clear()

    def stop(self) -> None:
        """End all nodes, the head last, and disconnect."""
        try:
            self.end_nodes()
        finally:
            ray.shutdown()
            self._head.shutdown()


@contextmanager
def raylets(**head: Any) -> Iterator[Raylets]:
    """Give a cluster and end it; `head` as for `Raylets`."""
    cluster = Raylets(**head)
    try:
        yield cluster
    finally:
        cluster.stop()
