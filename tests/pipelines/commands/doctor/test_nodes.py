"""The cluster as the doctor sees it: what fits, and whether all nodes really share one file system."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from flowse.fetching import use_source
from pipelines.commands.doctor.nodes import answer, answer_of_node, fitting, judge, look
from pipelines.engine import mirror as mirror_module
from pipelines.engine.mirror import open_mirror
from pipelines.engine.resources import Capacity, Resources
from pipelines.engine.scratch import use_scratch
from pipelines.engine.shipping import Origin, Parcel
from pipelines.engine.store import Store
from pipelines.experiment import ClusterConfig, StageResources
from tests.pipelines.engine.s3 import KEYS, s3_server

RAY = Path(sys.executable).parent / "ray"


def severities(stages: StageResources, *nodes: dict[str, float]) -> dict[str, str]:
    return {finding.where.rpartition(".")[2]: finding.severity for finding in fitting(stages, Capacity.of_ray(nodes))}


def test_a_worker_must_fit_a_node_and_all_ranks_of_a_training_the_cluster() -> None:
    small = {"CPU": 4.0, "GPU": 0.0}
    assert severities(StageResources(), small) == {}
    # Eight cores on two nodes hold no worker of five.
    five = StageResources(simulate=Resources(num_cpus=5))
    assert severities(five, small, small) == {"simulate": "error"}
    assert severities(five, {"CPU": 8.0, "GPU": 0.0}) == {}
    many = StageResources(ingest=Resources(workers=9), train=Resources(workers=9))
    assert severities(many, small, small) == {"ingest": "warning", "train": "error"}
    gpu = StageResources(train=Resources(workers=2, num_gpus=1.0))
    assert severities(gpu, {"CPU": 4.0, "GPU": 1.0}) == {"train": "error"}
    assert severities(gpu, {"CPU": 4.0, "GPU": 2.0}) == {}


def test_without_ray_no_cluster_is_looked_for(tmp_path: Path) -> None:
    (finding,) = look(ClusterConfig(backend="local", num_cpus=3, ray_address="nobody:1"), tmp_path, {})
    assert finding.severity == "ok"
    assert "3 CPUs" in finding.text


def test_what_a_node_answers_is_what_it_sees(tmp_path: Path) -> None:
    question, reply = tmp_path / "question", tmp_path / "reply"
    question.write_text("token")
    needed = {"corpus s": str(question), "corpus t": "/nowhere/x.flac"}
    found = answer(str(question), "token", str(reply), needed)
    assert found == {"read": True, "not_written": "", "missing": ["corpus t (/nowhere/x.flac)"]}
    assert reply.read_text() == "token"
    assert [finding.text for finding in judge("node a", found, True, tmp_path)] == [
        "does not see the corpus t (/nowhere/x.flac)"
    ]
    # A file of the same name with another content is another file system.
    assert not answer(str(question), "other", str(reply), {})["read"]
    blind = answer(str(tmp_path / "gone" / "question"), "token", str(tmp_path / "gone" / "reply"), {})
    assert not blind["read"]
    assert blind["not_written"]
    (finding,) = judge("node a", blind, False, tmp_path)
    assert "does not see what was written here" in finding.text
    (finding,) = judge("node a", {**blind, "read": True}, False, tmp_path)
    assert "cannot write" in finding.text
    (finding,) = judge("node a", {"read": True, "not_written": "", "missing": []}, False, tmp_path)
    assert "cannot be seen here" in finding.text


@pytest.fixture(scope="module")
def hidden(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that the second node does not share."""
    return tmp_path_factory.mktemp("hidden")


@pytest.fixture(scope="module")
def address(hidden: Path) -> Iterator[str]:
    """A cluster of two nodes on this machine; the second's mount table has an empty file system at `hidden`."""
    from ray.cluster_utils import Cluster

    tried = ["unshare", "--mount", "mount", "-t", "tmpfs", "tmpfs", str(hidden)]
    if shutil.which("unshare") is None or subprocess.run(tried, capture_output=True, check=False).returncode != 0:
        pytest.skip("a mount table of its own cannot be made here (needs root)")
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    start = f'mount -t tmpfs tmpfs "{hidden}" && exec "{RAY}" start --address={cluster.address} --num-cpus=2 --block'
    node = subprocess.Popen(
        ["unshare", "--mount", "sh", "-c", start],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        wait_for_nodes(cluster.address, 2)
        yield cluster.address
    finally:
        node.terminate()
        node.wait(timeout=60)
        cluster.shutdown()


def wait_for_nodes(address: str, count: int) -> None:
    import ray

    ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    try:
        end = time.monotonic() + 60
        while sum(node["Alive"] for node in ray.nodes()) < count:
            assert time.monotonic() < end, "the node did not join"
            time.sleep(0.2)
    finally:
        ray.shutdown()


def test_nodes_that_share_a_workspace_are_found_to(address: str, tmp_path: Path) -> None:
    found = list(look(ClusterConfig(ray_address=address), tmp_path, {"corpus s": tmp_path / "gone.flac"}))
    assert "2 nodes, 4 CPUs" in found[0].text
    errors = [finding.text for finding in found if finding.severity == "error"]
    assert errors == [f"does not see the corpus s ({tmp_path / 'gone.flac'})"] * 2
    assert list(tmp_path.iterdir()) == []


def test_a_node_that_mounts_something_else_there_is_found(address: str, hidden: Path) -> None:
    found = list(look(ClusterConfig(ray_address=address), hidden, {}))
    errors = [finding for finding in found if finding.severity == "error"]
    assert len(errors) == 1
    assert "does not see what was written here" in errors[0].text
    assert not any("one file system" in finding.text for finding in found)


def test_a_node_needs_to_reach_the_store_of_a_workspace_in_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirror_module, "_open", {})
    monkeypatch.setattr("pipelines.engine.store._FIRST_ANSWER_S", 0.5)
    (tmp_path / "here.flac").write_bytes(b"x")
    needed = {"corpus s": tmp_path / "here.flac", "corpus t": tmp_path / "gone.flac"}
    try:
        with s3_server() as address:
            for key, value in (KEYS | {"AWS_ENDPOINT_URL": address}).items():
                monkeypatch.setenv(key, value)
            mirror = open_mirror(Store("s3://bucket/ws"), tmp_path / "copies", ("ingest",))
            asked = Parcel.of((mirror.store.url, needed), Origin.of(mirror.folder))
            found = answer_of_node("", "token", str(tmp_path / "reply"), asked)
            (finding,) = judge("node a", found, True, mirror.folder)
            assert "does not see the corpus t" in finding.text
            assert mirror.store.list() == {}, "what was written to try it is deleted"
            monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
            found = answer_of_node("", "token", str(tmp_path / "reply"), asked)
            (finding,) = judge("node a", found, True, mirror.folder)
            assert finding.text.startswith("cannot use the store: s3://bucket/ws: cannot be listed")
    finally:
        use_source(None)
        use_scratch("", 0.0)
