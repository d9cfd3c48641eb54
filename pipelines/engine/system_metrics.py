"""Load of this machine while a stage runs, in MLflow's own names: processor, memory, disk, network, GPUs."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

_EVERY_S = 10.0
_LAST_WAIT_S = 5.0


class Machine:
    """Samples the load of this machine by MLflow's collectors; what cannot be measured here is left out."""

    def __init__(self) -> None:
        """Find out what can be measured."""
        from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
        from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
        from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
        from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor

        self._collectors: list[Any] = []
        for kind in (CPUMonitor, DiskMonitor, NetworkMonitor, GPUMonitor):
            try:
                self._collectors.append(kind())
            except Exception:  # noqa: BLE001 - no GPU, no driver, no /proc: each raises its own
                continue

    def sample(self) -> dict[str, float]:
        """Return the load of now, e.g. {"system/cpu_utilization_percentage": 83.0}."""
        found: dict[str, float] = {}
        for collector in self._collectors:
            try:
                collector.collect_metrics()
                figures = collector.aggregate_metrics()
                collector.clear_metrics()
            except Exception:  # noqa: BLE001 - a driver that fails for once costs one sample
                continue
            found |= {f"system/{name}": float(value) for name, value in figures.items() if math.isfinite(value)}
        return found


@contextmanager
def sampled(log: Callable[[Mapping[str, float], int], None], every_s: float = _EVERY_S) -> Iterator[None]:
    """Log this machine's load every few seconds while the block runs; no block fails or waits because of that.

    Args:
        log: Takes figures by name, and their number, from 0 on. It may raise: those figures are lost, then.
        every_s: Pause between two samples, in s. A block that is shorter has none.
    """
    ended = threading.Event()

    def watch() -> None:
        step, machine = 0, None
        while not ended.wait(every_s):
            try:
                machine = machine or Machine()
                log(machine.sample(), step)
            except Exception:  # noqa: BLE001 - figures beside the work: whatever they cost is not worth the work
                continue
            step += 1

    thread = threading.Thread(target=watch, name="system metrics", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(_LAST_WAIT_S)
