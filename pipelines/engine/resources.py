"""What one worker of a stage takes, what the cluster has, and how many workers of a kind fit into it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

_OF_KIND = 0.001


@dataclass(frozen=True)
class Resources:
    """What one worker of a stage takes from the cluster.

    Attributes:
        workers: How many at once; None fills the cluster.
        num_cpus: Cores, and threads, of one worker; 0: an equal share of the cluster's cores among `workers`.
        num_gpus: GPUs of one worker.
        unit_timeout_s: A unit that takes longer is taken for hung: its worker is killed, the unit tried again.
        node_kind: A custom resource of Ray that the workers' nodes must offer (`ray start --resources
            '{"big_gpu": 1}'`), for clusters with several kinds of nodes; empty: any node.
        decoders: Cores anywhere in the cluster that decode audio for one worker ahead of its GPU (filter_language,
            transcribe); 0: the worker decodes itself, one batch ahead.
        collective_timeout_s: Of train: a rank that waits longer for the others in an exchange (NCCL, gloo) gives up,
            and all start again from the newest checkpoint. It must be longer than what one rank may do alone: the
            first validation, building the mel cache on the slowest machine.
    """

    workers: int | None = None
    num_cpus: int = 1
    num_gpus: float = 0.0
    unit_timeout_s: float = 3600.0
    node_kind: str = ""
    decoders: int = 0
    collective_timeout_s: float = 1800.0

    def __post_init__(self) -> None:
        if self.num_cpus < 0 or (self.num_cpus == 0 and self.workers is None):
            raise ValueError(
                f"num_cpus is {self.num_cpus}; say how many cores a worker takes, or 0 and the number of workers"
            )
        if self.workers is not None and self.workers < 1:
            raise ValueError(f"workers is {self.workers}; leave it empty to fill the cluster, or ask for at least one")
        if self.decoders < 0:
            raise ValueError(f"decoders is {self.decoders}; it is a number of cores, 0 or more")
        if self.collective_timeout_s <= 0:
            raise ValueError(f"collective_timeout_s is {self.collective_timeout_s}; it must be above 0")
        if self.num_gpus < 0 or self.unit_timeout_s <= 0:
            raise ValueError(
                f"num_gpus is {self.num_gpus} and unit_timeout_s {self.unit_timeout_s}; neither may be negative"
            )

    @property
    def custom(self) -> dict[str, float]:
        """What a worker takes besides CPUs and GPUs, as Ray takes it: so little that a node never runs out of it."""
        return {self.node_kind: _OF_KIND} if self.node_kind else {}

    def __str__(self) -> str:
        """Return what one worker asks for, for messages."""
        kind = f" on a node of kind {self.node_kind!r}" if self.node_kind else ""
        return f"{self.num_cpus} CPUs and {self.num_gpus:g} GPUs{kind}"

    @property
    def device(self) -> str:
        """Where a worker's networks run, as torch names it: "cuda" if the worker has a GPU, else "cpu"."""
        return "cuda" if self.num_gpus else "cpu"


@dataclass(frozen=True)
class Node:
    """What one machine of the cluster has.

    Attributes:
        cores: CPU cores.
        gpus: GPUs.
        kinds: Names of all resources that Ray knows of it; see `Resources.node_kind`.
    """

    cores: float
    gpus: float = 0.0
    kinds: frozenset[str] = frozenset()

    def fits(self, resources: Resources) -> int:
        """Return how many workers of this kind the machine holds at once, if it does nothing else."""
        if resources.node_kind and resources.node_kind not in self.kinds:
            return 0
        fits = int(self.cores // resources.num_cpus)
        return min(fits, int(self.gpus / resources.num_gpus)) if resources.num_gpus else fits


@dataclass(frozen=True)
class Capacity:
    """What the cluster has, machine by machine: no worker is spread over two of them."""

    nodes: tuple[Node, ...]

    @classmethod
    def of_ray(cls, nodes: Iterable[Mapping[str, float]]) -> Capacity:
        """Read the "Resources" of Ray's nodes: number of "CPU" and "GPU", and the names of all others."""
        return cls(tuple(Node(node.get("CPU", 0.0), node.get("GPU", 0.0), frozenset(node)) for node in nodes))

    @property
    def cores(self) -> float:
        """CPU cores of all machines together."""
        return sum(node.cores for node in self.nodes)

    @property
    def gpus(self) -> float:
        """GPUs of all machines together."""
        return sum(node.gpus for node in self.nodes)

    def resolve(self, resources: Resources) -> Resources:
        """Replace "an equal share of the cores" (0) by the number of cores that it is here; at least one."""
        if resources.num_cpus:
            return resources
        return dataclasses.replace(resources, num_cpus=max(1, int(self.cores) // (resources.workers or 1)))

    def fits(self, resources: Resources) -> int:
        """Return how many workers of this kind the cluster holds at once; 0: no machine can hold even one."""
        resolved = self.resolve(resources)
        return sum(node.fits(resolved) for node in self.nodes)

    def at_work(self, resources: Resources, units: int | None = None) -> int:
        """Return how many workers will work at once: as many as are asked for, fit, and have a unit; at least one.

        Args:
            resources: What one worker takes, and how many are asked for (None: as many as fit).
            units: Number of units that they share; None: unknown.
        """
        fits = self.fits(resources)
        return max(1, min(resources.workers or fits, fits, fits if units is None else units))
