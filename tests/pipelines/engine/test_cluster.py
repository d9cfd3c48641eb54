"""A Ray cluster is found where the configuration or the environment says, or named when it does not answer."""

from __future__ import annotations

import pytest

from flowse.errors import UserError
from pipelines.engine.cluster import address_of, ray_cluster
from pipelines.experiment import ClusterConfig


def test_a_cluster_that_cannot_be_reached_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray.init", lambda **_: (_ for _ in ()).throw(ConnectionError("nobody listens\ntrace")))
    with (
        pytest.raises(UserError, match=r"^no Ray at host:1: nobody listens; check `ray status`"),
        ray_cluster(ClusterConfig(ray_address="host:1")),
    ):
        pass


def test_the_environment_counts_where_the_configuration_names_no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    assert address_of(ClusterConfig()) == "head:6379"
    assert address_of(ClusterConfig(ray_address="auto")) == "auto"
