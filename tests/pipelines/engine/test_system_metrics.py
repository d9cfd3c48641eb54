"""The load of the machine is logged beside the work, in MLflow's names, and neither stops nor delays it."""

from __future__ import annotations

import threading
from collections.abc import Mapping

from pipelines.engine.system_metrics import Machine, sampled


def test_a_sample_has_the_names_of_mlflows_own_charts() -> None:
    found = Machine().sample()
    assert {"system/cpu_utilization_percentage", "system/system_memory_usage_percentage"} <= set(found)


def test_samples_come_while_the_work_goes_on_also_after_a_store_failed_once() -> None:
    seen: list[int] = []
    enough = threading.Event()

    def log(values: Mapping[str, float], step: int) -> None:
        if not seen:
            seen.append(-1)
            raise OSError("the store is down")
        seen.append(step)
        if len(seen) == 3:
            enough.set()

    with sampled(log, every_s=0.01):
        assert enough.wait(60)
    assert seen[:3] == [-1, 0, 1]
