"""A Ray cluster is found where the configuration or the environment says, or named when it does not answer."""

from __future__ import annotations

import signal
import socket
import tempfile
import time
from pathlib import Path

import pytest

from flowse.errors import UserError
from pipelines.engine.cluster import address_of, ray_cluster
from pipelines.engine.resources import Capacity, Node
from pipelines.experiment import ClusterConfig


def test_a_cluster_that_cannot_be_reached_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.engine.cluster._require_listener", lambda address: None)
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


def test_a_node_that_takes_too_long_to_start_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr("ray.init", lambda **_: (_ for _ in ()).throw(Exception("The current node timed out")))
    with (
        pytest.raises(UserError, match=r"^no Ray on this machine: The current node timed out"),
        ray_cluster(ClusterConfig()),
    ):
        pass


def test_an_address_where_nobody_listens_is_named_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.engine.cluster._REACH_S", 1.0)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    begun = time.monotonic()
    for address in (f"127.0.0.1:{port}", f"ray://127.0.0.1:{port}", "no-such-host.invalid:6379", "127.0.0.1:99999"):
        with (
            pytest.raises(UserError, match=r"^no Ray at .*: nobody answers there"),
            ray_cluster(ClusterConfig(ray_address=address)),
        ):
            pass
    assert time.monotonic() - begun < 20
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{port}")
    with pytest.raises(UserError, match="mend RAY_ADDRESS"), ray_cluster(ClusterConfig()):
        pass


def test_a_folder_too_long_for_sockets_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = tmp_path / ("d" * 100)
    deep.mkdir()
    monkeypatch.setenv("TMPDIR", str(deep))
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(UserError, match=r"set TMPDIR to a shorter folder"), ray_cluster(ClusterConfig()):
        pass


def test_ray_does_not_take_the_programs_answer_to_sigterm(monkeypatch: pytest.MonkeyPatch) -> None:
    def own(number: int, frame: object) -> None: ...

    monkeypatch.setattr("ray.init", lambda **_: signal.signal(signal.SIGTERM, signal.SIG_IGN))
    monkeypatch.setattr("ray.shutdown", lambda: None)
    monkeypatch.setattr("pipelines.engine.cluster.connected_capacity", lambda: Capacity((Node(1.0),)))
    before = signal.signal(signal.SIGTERM, own)
    try:
        with ray_cluster(ClusterConfig()):
            assert signal.getsignal(signal.SIGTERM) is own
    finally:
        signal.signal(signal.SIGTERM, before)
