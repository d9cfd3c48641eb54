"""What runs units: Ray or this process, and what one worker takes there."""

from __future__ import annotations

from pipelines.engine import local_units
from pipelines.engine.backend import Backend, connect
from pipelines.engine.resources import Capacity, Node, Resources
from pipelines.experiment import ClusterConfig


def test_without_ray_this_process_does_all_the_work() -> None:
    with connect(ClusterConfig(backend="local", num_cpus=3)) as backend:
        assert backend.local
        assert backend.map_units is local_units.map_units
        assert backend.capacity.cores == 3.0


def test_a_share_of_the_cores_becomes_a_number_and_a_local_worker_is_alone() -> None:
    capacity = Capacity((Node(8.0),))
    asked = Resources(workers=4, num_cpus=0, unit_timeout_s=7.0)
    assert Backend(capacity, local_units.map_units).granted(asked) == Resources(4, 2, 0.0, 7.0)
    assert Backend(capacity, local_units.map_units, local=True).granted(asked) == Resources(1, 8, 0.0, 7.0)
