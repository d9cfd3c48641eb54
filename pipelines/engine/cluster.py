"""The Ray cluster, or the Ray of this machine: how it is reached, and what it has."""

from __future__ import annotations

import os
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, Protocol

from flowse import console
from flowse.errors import UserError
from pipelines.engine.resources import Capacity, Node

_REACH_S = 10.0
BackendName = Literal["ray", "local"]


class ClusterSettings(Protocol):
    """The part of the cluster's configuration that says where units run; see `pipelines.experiment.ClusterConfig`."""

    @property
    def backend(self) -> BackendName: ...
    @property
    def ray_address(self) -> str: ...
    @property
    def num_cpus(self) -> int | None: ...
    @property
    def ship_code(self) -> bool: ...
    @property
    def await_nodes_s(self) -> float: ...


def address_of(settings: ClusterSettings) -> str:
    """Return the address of the running cluster that is to be used; empty: Ray is started on this machine."""
    return settings.ray_address or os.environ.get("RAY_ADDRESS", "")


def this_machine(settings: ClusterSettings) -> Capacity:
    """Return what this machine gives to a run: the configured cores or all, and all GPUs that CUDA sees."""
    import torch

    return Capacity((Node(float(settings.num_cpus or os.cpu_count() or 1), float(torch.cuda.device_count())),))


@contextmanager
def ray_cluster(settings: ClusterSettings) -> Iterator[Capacity]:
    """Connect to the configured Ray cluster, or start one on this machine, and say what it has.

    Raises:
        UserError: The cluster cannot be reached.
    """
    # Set before import: Ray reads them once.
    os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_DEDUP_LOGS", "1")
    import ray

    address = address_of(settings)
    _require_listener(address)
    options: dict[str, Any] = {"log_to_driver": False, "configure_logging": True, "logging_level": "ERROR"}
    if settings.ship_code:
        root = Path(__file__).parents[2]
        options["runtime_env"] = {"py_modules": [str(root / "flowse"), str(root / "pipelines")]}
    on_sigterm = signal.getsignal(signal.SIGTERM)
    try:
        if address:
            ray.init(address=address, **options)
        else:
            ray.init(address="local", num_cpus=settings.num_cpus, include_dashboard=False, **options)
    except Exception as error:
        if not isinstance(error, OSError | RuntimeError | ValueError) and type(error) is not Exception:
            raise
        if "AF_UNIX" in str(error):
            raise UserError(
                f"no Ray on this machine: its sockets lie in {tempfile.gettempdir()}, and their paths may have 107 "
                "bytes; set TMPDIR to a shorter folder, e.g. TMPDIR=/tmp"
            ) from None
        if isinstance(error, OSError) and not isinstance(error, ConnectionError | TimeoutError):
            raise
        where = f"at {address}" if address else "on this machine"
        raise UserError(
            f"no Ray {where}: {str(error).splitlines()[0]}; check `ray status`, or mend cluster.ray_address"
        ) from None
    # Ray sets a handler that only exits; the program's own says what is kept.
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, on_sigterm or signal.SIG_DFL)
    try:
        capacity = connected_capacity()
        gpus = f", {capacity.gpus:g} GPUs" if capacity.gpus else ""
        where = f"cluster {address}" if address else "on this machine"
        console.say(f"Ray {where}: {len(capacity.nodes)} node(s), {capacity.cores:g} CPUs{gpus}")
        yield capacity
    finally:
        ray.shutdown()


def _require_listener(address: str) -> None:
    """Look whether anybody listens at the address of a cluster: Ray itself waits for minutes, and says nothing.

    Raises:
        UserError: Nobody does within ten seconds.
    """
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon or not port.isdigit():  # "auto", "local": Ray looks on this machine, and answers at once
        return
    begun = time.monotonic()
    while True:
        left_s = begun + _REACH_S - time.monotonic()
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=max(left_s, 0.1)).close()
        except (OSError, OverflowError) as error:
            # A head that is just starting refuses for some seconds; a name that nobody knows stays unknown.
            if left_s > 1 and isinstance(error, ConnectionRefusedError):
                time.sleep(0.5)
                continue
            source = "RAY_ADDRESS" if address == os.environ.get("RAY_ADDRESS") else "cluster.ray_address"
            raise UserError(
                f"no Ray at {address}: nobody answers there ({getattr(error, 'strerror', None) or error}); start the "
                f"cluster, or mend {source} (empty: Ray starts on this machine)"
            ) from None
        return


def is_this_machine() -> bool:
    """Whether all living nodes of the connected Ray cluster are on the machine of this process."""
    import ray

    return {node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]} == {ray.util.get_node_ip_address()}


def connected_capacity() -> Capacity:
    """Return what the nodes of the connected Ray cluster have that live and are not about to be taken away."""
    import ray

    leaving = leaving_nodes()
    return Capacity.of_ray(node["Resources"] for node in ray.nodes() if node["Alive"] and node["NodeID"] not in leaving)


def leaving_nodes() -> frozenset[str]:
    """Return the ids of the nodes that Ray drains: they will be taken away soon, as spot nodes are."""
    from ray._private.state import state

    # Ray Train asks in the same way (ray.train.v2._internal.execution.preemption); there is no public call.
    return frozenset(state.get_draining_nodes())
