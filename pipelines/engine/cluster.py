"""The Ray cluster, or the Ray of this machine: how it is reached, and what it has."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, Protocol

from flowse.errors import UserError
from pipelines.engine import console
from pipelines.engine.resources import Capacity, Node

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
    options: dict[str, Any] = {"log_to_driver": False, "configure_logging": True, "logging_level": "ERROR"}
    if settings.ship_code:
        root = Path(__file__).parents[2]
        options["runtime_env"] = {"py_modules": [str(root / "flowse"), str(root / "pipelines")]}
    try:
        if address:
            ray.init(address=address, **options)
        else:
            ray.init(address="local", num_cpus=settings.num_cpus, include_dashboard=False, **options)
    except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        where = f"at {address}" if address else "on this machine"
        raise UserError(
            f"no Ray {where}: {str(error).splitlines()[0]}; check `ray status`, or mend cluster.ray_address"
        ) from None
    try:
        capacity = connected_capacity()
        gpus = f", {capacity.gpus:g} GPUs" if capacity.gpus else ""
        where = f"cluster {address}" if address else "on this machine"
        console.say(f"Ray {where}: {len(capacity.nodes)} node(s), {capacity.cores:g} CPUs{gpus}")
        yield capacity
    finally:
        ray.shutdown()


def connected_capacity() -> Capacity:
    """Return what the living nodes of the connected Ray cluster have."""
    import ray

    return Capacity.of_ray(node["Resources"] for node in ray.nodes() if node["Alive"])
