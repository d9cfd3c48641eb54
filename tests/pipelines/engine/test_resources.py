"""Laws of resources: what cannot work is refused, and workers are counted machine by machine."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.engine.resources import Capacity, Node, Resources

NODES = st.lists(st.builds(Node, st.integers(0, 64).map(float), st.integers(0, 8).map(float)), max_size=5).map(
    lambda nodes: Capacity(tuple(nodes))
)
ASKED = st.builds(
    Resources,
    workers=st.none() | st.integers(1, 20),
    num_cpus=st.integers(1, 16),
    num_gpus=st.sampled_from([0.0, 0.5, 1.0, 2.0]),
)


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"num_cpus": -1}, "num_cpus"),
        ({"num_cpus": 0}, "number of workers"),
        ({"workers": 0}, "workers is 0"),
        ({"num_gpus": -1.0}, "num_gpus is -1"),
        ({"unit_timeout_s": 0.0}, "unit_timeout_s 0"),
    ],
)
def test_resources_that_cannot_work_are_refused(values: dict[str, int], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        Resources(**values)  # type: ignore[arg-type]


@given(NODES, ASKED)
def test_workers_that_fit_do_not_take_more_than_there_is(capacity: Capacity, asked: Resources) -> None:
    fits = capacity.fits(asked)
    assert fits * asked.num_cpus <= capacity.cores
    assert fits * asked.num_gpus <= capacity.gpus or not asked.num_gpus
    assert fits >= max((node.fits(asked) for node in capacity.nodes), default=0)


@given(NODES, ASKED, st.none() | st.integers(0, 30))
def test_workers_at_once_are_bounded_by_what_is_asked_what_fits_and_the_units(
    capacity: Capacity, asked: Resources, units: int | None
) -> None:
    at_work = capacity.at_work(asked, units)
    assert at_work >= 1
    assert at_work <= max(1, capacity.fits(asked))
    assert at_work <= (asked.workers or at_work)
    assert units is None or at_work <= max(1, units)


def test_a_worker_is_not_spread_over_two_machines() -> None:
    capacity = Capacity.of_ray([{"CPU": 3.0}, {"CPU": 3.0, "GPU": 1.0}, {"memory": 1e9}])
    assert (capacity.cores, capacity.gpus) == (6.0, 1.0)
    assert capacity.fits(Resources(num_cpus=2)) == 2
    assert capacity.fits(Resources(num_cpus=4)) == 0
    assert capacity.fits(Resources(num_cpus=1, num_gpus=0.5)) == 2


def test_no_number_of_cores_means_an_equal_share() -> None:
    capacity = Capacity((Node(8.0),))
    assert capacity.resolve(Resources(workers=2, num_cpus=0)).num_cpus == 4
    assert capacity.resolve(Resources(workers=20, num_cpus=0)).num_cpus == 1
    assert capacity.resolve(Resources(num_cpus=3)) == Resources(num_cpus=3)
    assert capacity.fits(Resources(workers=2, num_cpus=0)) == 2
