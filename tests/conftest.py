"""What all tests share: a small local Ray, and quiet, single-threaded torch."""

from __future__ import annotations

import os
from collections.abc import Iterator

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

import hypothesis
import pytest
import torch

torch.set_num_threads(1)
# Tests time nothing: on a busy machine a first call may take a second.
hypothesis.settings.register_profile("suite", deadline=None)
hypothesis.settings.load_profile("suite")


@pytest.fixture(scope="module")
def local_ray() -> Iterator[None]:
    """A real Ray that counts four CPUs, whatever the machine has, and that ends with the test module."""
    import ray

    ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()
