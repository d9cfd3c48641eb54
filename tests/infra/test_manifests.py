"""Laws of infra/: every file parses, says how it is used, and names only what exists in this project."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines.engine.fingerprint import settings_of
from pipelines.experiment import STAGES, ClusterConfig, ExperimentConfig

ROOT = Path(__file__).parents[2]
INFRA = ROOT / "infra"
MANIFESTS = sorted(INFRA.glob("*.yaml"))
SCRIPTS = sorted(INFRA.glob("*.sh"))
FILES = sorted(path for path in INFRA.iterdir() if path.is_file() and path.name != "README.md")


def documents(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((INFRA / name).read_text(encoding="utf-8")))


def by_kind(name: str, kind: str) -> dict[str, Any]:
    (found,) = (document for document in documents(name) if document["kind"] == kind)
    return found


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_every_manifest_is_yaml(path: Path) -> None:
    assert all(isinstance(document, dict) for document in documents(path.name))


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_every_script_is_bash_that_stops_at_an_error(path: Path) -> None:
    subprocess.run(["bash", "-n", str(path)], check=True)
    assert "set -euo pipefail" in path.read_text(encoding="utf-8")
    assert path.stat().st_mode & 0o100


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_every_script_passes_shellcheck(path: Path) -> None:
    subprocess.run(["shellcheck", str(path)], check=True)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_file_says_what_it_is_and_stands_in_the_table(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    first = next(line for line in lines if not line.startswith("#!"))
    assert re.match(r"# [A-Z].{30,}", first)
    assert f"| `{path.name}` |" in (INFRA / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("path", [*FILES, INFRA / "README.md"], ids=lambda path: path.name)
def test_files_and_keys_that_are_named_exist(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    for name in re.findall(r"(?:infra|configs)/[\w./-]+\.(?:yaml|sh)", text):
        if name != "configs/experiment/paper.yaml":  # comes with the model's full configuration
            assert (ROOT / name).is_file(), name
    settings = (*settings_of(ClusterConfig(), "cluster."), *settings_of(ExperimentConfig()))
    known = {setting.key for setting in settings}
    for key in re.findall(r"--set ([\w.]+)=", text):
        assert key in known, key


def groups(cluster: dict[str, Any]) -> list[dict[str, Any]]:
    return [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]


@pytest.mark.parametrize("name", ["kuberay-cluster.yaml", "kuberay-job.yaml"])
def test_all_nodes_on_kubernetes_share_image_volume_and_secret(name: str) -> None:
    (document,) = documents(name)
    cluster = document["spec"].get("rayClusterSpec", document["spec"])
    assert cluster["authOptions"] == {"mode": "token"}
    pods = [group["template"]["spec"] for group in groups(cluster)]
    containers = [container for pod in pods for container in pod["containers"]]
    assert len({container["image"] for container in containers}) == 1
    assert all({"name": "shared", "mountPath": "/mnt/shared"} in container["volumeMounts"] for container in containers)
    claim = documents("kuberay-storage.yaml")[0]
    assert all(pod["volumes"][0]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"] for pod in pods)
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]


def test_a_worker_of_every_stage_fits_on_a_node_of_kubernetes() -> None:
    """Ray would wait for ever for a worker that no node can hold."""
    resources = yaml.safe_load((ROOT / "configs/cluster/gpu.yaml").read_text(encoding="utf-8"))["stages"]
    assert set(resources) <= {stage.NAME for stage in STAGES}
    (job,) = documents("kuberay-job.yaml")
    nodes = []
    for group in job["spec"]["rayClusterSpec"]["workerGroupSpecs"]:
        limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
        nodes.append((float(limits["cpu"]), float(limits.get("nvidia.com/gpu", 0)), group["replicas"]))
    for name, needs in resources.items():
        cpus, gpus = needs.get("num_cpus", 1), needs.get("num_gpus", 0)
        fitting = sum(
            count * min(cpu // cpus, gpu // gpus if gpus else cpu)
            for cpu, gpu, count in nodes
            if cpu >= cpus and gpu >= gpus
        )
        assert fitting >= needs.get("workers", 1), name


def test_mlflow_is_where_the_cluster_config_looks_for_it() -> None:
    uri = yaml.safe_load((ROOT / "configs/cluster/gpu.yaml").read_text(encoding="utf-8"))["mlflow_uri"]
    service = by_kind("kuberay-storage.yaml", "Service")
    assert uri == f"http://{service['metadata']['name']}:{service['spec']['ports'][0]['port']}"
    assert "mlflow" in documents("compose.yaml")[0]["services"]


def test_the_ray_of_the_manifests_is_the_pinned_one() -> None:
    pinned = re.search(r"(?m)^ray(?:\[.*\])?==([\d.]+)", (ROOT / "constraints.txt").read_text(encoding="utf-8"))
    assert pinned is not None
    (job,), (cluster,) = documents("kuberay-job.yaml"), documents("kuberay-cluster.yaml")
    assert {job["spec"]["rayClusterSpec"]["rayVersion"], cluster["spec"]["rayVersion"]} == {pinned[1]}


def test_what_the_image_copies_exists() -> None:
    text = (INFRA / "Dockerfile").read_text(encoding="utf-8")
    for line in re.findall(r"(?m)^COPY (?!--from)(.+)$", text):
        for source in line.split()[:-1]:
            assert (ROOT / source).exists() or source == "README.md", source


def test_submit_without_an_address_says_how_it_is_used() -> None:
    done = subprocess.run([str(INFRA / "submit.sh")], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "infra/submit.sh http://" in done.stdout
