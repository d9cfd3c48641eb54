"""Laws of infra/: every file parses, says how it is used, and names only what exists in this project."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement

import flowse
from pipelines.engine.fingerprint import settings_of
from pipelines.engine.resources import Capacity, Node
from pipelines.experiment import STAGES, ClusterConfig, ExperimentConfig, load_cluster

ROOT = Path(__file__).parents[2]
INFRA = ROOT / "infra"
MANIFESTS = sorted(INFRA.glob("*.yaml"))
SCRIPTS = sorted([*INFRA.glob("*.sh"), *INFRA.glob("*.sbatch")])
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
    for name in re.findall(r"(?:infra|configs)/[\w./-]+\.(?:yaml|sh|sbatch)", text):
        assert (ROOT / name).is_file(), name
    settings = (*settings_of(ClusterConfig(), "cluster."), *settings_of(ExperimentConfig()))
    known = {setting.key for setting in settings}
    for key in re.findall(r"--set ([\w.]+)=", text):
        assert key in known, key


def groups(cluster: dict[str, Any]) -> list[dict[str, Any]]:
    return [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]


CLUSTERS = ["kuberay-cluster.yaml", "kuberay-job.yaml"]
KUBERNETES = sorted(path.name for path in INFRA.glob("kuberay-*.yaml"))


def cluster_of(name: str) -> dict[str, Any]:
    (document,) = documents(name)
    found: dict[str, Any] = document["spec"].get("rayClusterSpec", document["spec"])
    return found


@pytest.mark.parametrize("name", CLUSTERS)
def test_nodes_on_kubernetes_share_an_image_and_the_store_and_no_volume(name: str) -> None:
    cluster = cluster_of(name)
    assert cluster["authOptions"] == {"mode": "token"}
    pods = [group["template"]["spec"] for group in groups(cluster)]
    containers = [container for pod in pods for container in pod["containers"]]
    assert len({container["image"] for container in containers}) == 1
    assert all(container["envFrom"] == [{"secretRef": {"name": "flowse-s3"}}] for container in containers)
    volumes = [volume for pod in pods for volume in pod["volumes"]]
    assert all(set(volume) <= {"name", "emptyDir", "projected"} for volume in volumes)
    scratch = yaml.safe_load((ROOT / "configs/cluster/kubernetes.yaml").read_text(encoding="utf-8"))["scratch"]
    assert all({"name": "scratch", "mountPath": scratch} in container["volumeMounts"] for container in containers)


def test_only_mlflow_has_a_volume_and_no_two_pods_mount_it() -> None:
    claims = [document for name in KUBERNETES for document in documents(name) if document["kind"].endswith("Claim")]
    assert [claim["spec"]["accessModes"] for claim in claims] == [["ReadWriteOnce"]]
    server = by_kind("kuberay-mlflow.yaml", "Deployment")["spec"]
    assert (server["replicas"], server["strategy"]) == (1, {"type": "Recreate"})
    (container,) = server["template"]["spec"]["containers"]
    assert any(argument.startswith("--artifacts-destination=s3://") for argument in container["command"])
    assert "boto3" in (ROOT / "pyproject.toml").read_text(encoding="utf-8").split("server = ")[1].split("]  #")[0]


def test_the_job_runs_the_paper_untouched_with_one_key_for_its_data() -> None:
    (job,) = documents("kuberay-job.yaml")
    assert job["spec"]["entrypoint"].split() == [
        *["python", "-m", "pipelines", "run", "--experiment", "/app/configs/experiment/paper.yaml"],
        *["--cluster", "/app/configs/cluster/kubernetes.yaml", "--workspace", "s3://flowse/paper"],
        *["--set", "cluster.data=s3://flowse/data"],
    ]


@pytest.mark.parametrize("name", CLUSTERS)
def test_gpu_nodes_come_for_gpu_stages_and_go_after_them(name: str) -> None:
    cluster = cluster_of(name)
    assert cluster["enableInTreeAutoscaling"] is True
    config = load_cluster(ROOT / "configs" / "cluster" / "kubernetes.yaml")
    assert config.await_nodes_s > 0
    kinds = {}
    for group in cluster["workerGroupSpecs"]:
        assert (group["replicas"], group["minReplicas"]) == (0, 0)
        # KubeRay puts the text into a shell's command line, in which quotes have to survive.
        kinds |= dict.fromkeys(json.loads(json.loads(group["rayStartParams"]["resources"])), group["groupName"])
    assert kinds == {"cpu": "cpu", "gpu": "gpu"}
    for stage in STAGES:
        asked = getattr(config.stages, stage.NAME)
        assert asked.node_kind == ("gpu" if asked.num_gpus else "cpu"), stage.NAME


@pytest.mark.parametrize("name", CLUSTERS)
def test_a_worker_of_every_stage_fits_on_a_node_of_its_kind(name: str) -> None:
    """Ray would wait in vain for a worker that no node can hold."""
    config = load_cluster(ROOT / "configs" / "cluster" / "kubernetes.yaml")
    nodes = []
    for group in cluster_of(name)["workerGroupSpecs"]:
        limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
        node = Node(float(limits["cpu"]), float(limits.get("nvidia.com/gpu", 0)), frozenset([group["groupName"]]))
        nodes += [node] * group["maxReplicas"]
    for stage in STAGES:
        asked = getattr(config.stages, stage.NAME)
        assert Capacity(tuple(nodes)).fits(asked) >= (asked.workers or 1), stage.NAME


def test_every_component_of_the_slurm_job_has_a_kind_that_stages_name() -> None:
    text = (INFRA / "slurm.sbatch").read_text(encoding="utf-8")
    kinds = re.findall(r"FLOWSE_KINDS:-([\w ]+)", text)[0].split()
    components = text.split("#SBATCH hetjob")
    assert len(components) == len(kinds)
    for kind, component in zip(kinds, components, strict=True):
        assert len(re.findall(r"--gpus-per-node=", component)) == (0 if kind == "cpu" else 1)
    stages = load_cluster(ROOT / "configs" / "cluster" / "slurm.yaml").stages
    named = {getattr(stages, stage.NAME).node_kind for stage in STAGES}
    assert named == {*kinds, ""}


def test_mlflow_is_where_the_cluster_config_looks_for_it() -> None:
    (uri,) = {load_cluster(ROOT / "configs" / "cluster" / name).mlflow_uri for name in ("gpu.yaml", "kubernetes.yaml")}
    service = by_kind("kuberay-mlflow.yaml", "Service")
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


def test_the_builder_gets_what_the_image_copies_and_nothing_else() -> None:
    rules = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert rules[1] == "*"
    text = (INFRA / "Dockerfile").read_text(encoding="utf-8")
    copied = {source for line in re.findall(r"(?m)^COPY (?!--from)(.+)$", text) for source in line.split()[:-1]}
    assert {rule[1:] for rule in rules if rule.startswith("!")} == copied


def test_an_edit_of_the_code_leaves_the_layer_of_the_packages() -> None:
    text = (INFRA / "Dockerfile").read_text(encoding="utf-8")
    assert text.index("--requirement requirements.lock") < text.index("COPY flowse") < text.index("--no-deps")


def test_the_cpu_image_installs_the_lock_without_hashes_and_cuda(tmp_path: Path) -> None:
    (command,) = re.findall(r"(sed -E '.+' requirements\.lock >cpu\.txt)", (INFRA / "Dockerfile").read_text("utf-8"))
    shutil.copy(ROOT / "requirements.lock", tmp_path)
    subprocess.run(["bash", "-c", command], check=True, cwd=tmp_path)
    lines = [line for line in (tmp_path / "cpu.txt").read_text().splitlines() if line and not line.startswith("#")]
    names = {Requirement(line).name for line in lines}
    assert {"torchdiffeq", "ray", "mlflow"} <= names
    assert not {"torch", "torchaudio", "triton", "nvidia-nccl-cu13", "cuda-toolkit"} & names
    assert len(names) > 150


@pytest.mark.parametrize("name", ["submit.sh", "three_raylets.sh"])
def test_scripts_find_the_ray_that_make_setup_installed(tmp_path: Path, name: str) -> None:
    for place in ("infra", ".venv/bin"):
        (tmp_path / place).mkdir(parents=True)
    script = shutil.copy(INFRA / name, tmp_path / "infra")
    ray = tmp_path / ".venv" / "bin" / "ray"
    ray.write_text(f'#!/bin/sh\necho "$@" >>{tmp_path}/called\n')
    ray.chmod(0o755)
    environment = {"PATH": "/usr/bin:/bin"}
    with subprocess.Popen(
        ["timeout", "5", str(script), "http://head:8265"],
        env=environment, cwd="/", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    ) as running:  # fmt: skip
        running.wait(30)
    assert (tmp_path / "called").read_text().startswith(("job submit --address http://head:8265", "start --head"))


def test_submit_without_an_address_says_how_it_is_used() -> None:
    done = subprocess.run([str(INFRA / "submit.sh")], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "infra/submit.sh http://" in done.stdout


def pods_of(document: Any) -> list[dict[str, Any]]:
    """Every pod's spec in a document of Kubernetes, wherever a template holds one."""
    if isinstance(document, list):
        return [pod for item in document for pod in pods_of(item)]
    if not isinstance(document, dict):
        return []
    own = [document] if "containers" in document else []
    return own + [pod for key, item in document.items() if key != "containers" for pod in pods_of(item)]


@pytest.mark.parametrize("name", KUBERNETES)
def test_no_pod_runs_as_root_or_holds_a_token_of_kubernetes(name: str) -> None:
    pods = pods_of(documents(name))
    assert pods
    for pod in pods:
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] == 1000
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod["containers"]:
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            mounted = [mount["mountPath"] for mount in container["volumeMounts"]] if "volumeMounts" in container else []
            assert not any("serviceaccount" in path for path in mounted)
    assert "USER 1000:1000" in (INFRA / "Dockerfile").read_text(encoding="utf-8")


def test_the_autoscaler_alone_gets_the_token_of_kubernetes_that_it_needs() -> None:
    (cluster,) = documents("kuberay-cluster.yaml")
    (mount,) = cluster["spec"]["autoscalerOptions"]["volumeMounts"]
    assert mount["mountPath"] == "/var/run/secrets/kubernetes.io/serviceaccount"
    head = cluster["spec"]["headGroupSpec"]["template"]["spec"]
    (volume,) = (volume for volume in head["volumes"] if volume["name"] == mount["name"])
    assert [next(iter(source)) for source in volume["projected"]["sources"]] == [
        "serviceAccountToken",
        "configMap",
        "downwardAPI",
    ]


def test_mlflow_on_kubernetes_asks_for_a_login_and_the_runs_have_it() -> None:
    server = by_kind("kuberay-mlflow.yaml", "Deployment")["spec"]["template"]["spec"]["containers"][0]
    assert "--app-name=basic-auth" in server["command"]
    keys = {entry["name"]: entry.get("valueFrom", {}).get("secretKeyRef") for entry in server["env"]}
    secret = "flowse-mlflow"
    assert keys["MLFLOW_AUTH_ADMIN_PASSWORD"] == {"name": secret, "key": "password"}
    assert keys["MLFLOW_FLASK_SERVER_SECRET_KEY"] == {"name": secret, "key": "key"}
    how = (INFRA / "kuberay-mlflow.yaml").read_text(encoding="utf-8")
    assert f"create secret generic {secret} " in how
    for reference in filter(None, keys.values()):
        assert f"--from-literal={reference['key']}=" in how
    for name in CLUSTERS:
        for group in groups(cluster_of(name)):
            (container,) = group["template"]["spec"]["containers"]
            login = {entry["name"]: entry["valueFrom"]["secretKeyRef"] for entry in container["env"]}
            assert login["MLFLOW_TRACKING_USERNAME"] == {"name": secret, "key": "username"}
            assert login["MLFLOW_TRACKING_PASSWORD"] == {"name": secret, "key": "password"}
    assert 'server = ["mlflow[auth]' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def test_network_policies_let_only_the_project_s_pods_reach_mlflow_and_ray() -> None:
    policies = [document for document in documents("kuberay-mlflow.yaml") if document["kind"] == "NetworkPolicy"]
    ours = {"app.kubernetes.io/part-of": "flowse"}
    mlflow = by_kind("kuberay-mlflow.yaml", "Deployment")["spec"]["template"]["metadata"]["labels"]
    by_target = {str(policy["spec"]["podSelector"]["matchLabels"]): policy["spec"] for policy in policies}
    assert set(by_target) == {str(mlflow), str(ours)}
    for spec in by_target.values():
        assert spec["policyTypes"] == ["Ingress"]
        assert spec["ingress"][0]["from"] == [{"podSelector": {"matchLabels": ours}}]
        assert all("from" in rule and rule["from"] for rule in spec["ingress"])
    for name in CLUSTERS:
        (document,) = documents(name)
        cluster = document["spec"].get("rayClusterSpec", document["spec"])
        templates = [group["template"] for group in groups(cluster)]
        templates += [document["spec"]["submitterPodTemplate"]] if name == "kuberay-job.yaml" else []
        assert all(template["metadata"]["labels"] == ours for template in templates)


def images_of(value: Any) -> list[str]:
    """Every image that a document names."""
    if isinstance(value, list):
        return [image for item in value for image in images_of(item)]
    if not isinstance(value, dict):
        return []
    own = [value["image"]] if isinstance(value.get("image"), str) else []
    return own + [image for item in value.values() for image in images_of(item)]


def test_every_image_is_named_by_this_version_or_a_digest() -> None:
    images = [image for path in MANIFESTS for image in images_of(documents(path.name))]
    assert len(images) >= 8
    for image in images:
        assert image.endswith(f":{flowse.__version__}") or re.search(r"@sha256:[0-9a-f]{64}$", image), image
    bases = re.findall(r"(?m)^FROM (\S+)", (INFRA / "Dockerfile").read_text(encoding="utf-8"))
    assert bases
    assert all(re.fullmatch(r"python:\$\{PYTHON_VERSION\}-slim-\w+\$\{BASE_DIGEST\}", base) for base in bases)
    assert re.search(r"(?m)^ARG PYTHON_VERSION=3\.\d+\.\d+$", (INFRA / "Dockerfile").read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", [*FILES, INFRA / "README.md"], ids=lambda path: path.name)
def test_no_file_holds_a_token_or_password_in_clear(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    for name, value in re.findall(r"(?i)([\w-]*(?:token|password|secret_key))[=:]\s*(\S+)", text):
        assert value.startswith(("$", '"$', "{", "~")) or value in ("false", "token", "RAY_AUTH_TOKEN"), (
            f"{name}={value}"
        )


def requirements(path: Path) -> dict[str, str]:
    """Versions by normalised name, from a file of pins."""
    pins = re.findall(r"(?m)^([A-Za-z0-9._-]+)(?:\[.*?\])?==([^\s;\\]+)", path.read_text(encoding="utf-8"))
    return {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in pins}


def test_the_lock_has_the_pinned_versions_and_a_hash_for_every_file() -> None:
    lock = ROOT / "requirements.lock"
    pinned, locked = requirements(ROOT / "constraints.txt"), requirements(lock)
    assert {name: version for name, version in locked.items() if pinned.get(name, version) != version} == {}
    for block in re.split(r"(?m)^(?=[A-Za-z0-9])", lock.read_text(encoding="utf-8")):
        if not block.startswith("#"):
            assert re.search(r"--hash=sha256:[0-9a-f]{64}", block), block[:80]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    installed = (name for extra in ("eval", "pipeline", "server", "faster") for name in extras[extra])
    for wanted in (*project["dependencies"], *(name for name in installed if not name.startswith("flowse-pipeline["))):
        name = re.sub(r"[-_.]+", "-", re.split(r"[\[><=~;! ]", wanted)[0]).lower()
        assert name in locked, f"{name}: make requirements.lock anew, as infra/README.md says"
    assert "--require-hashes --requirement requirements.lock" in (INFRA / "Dockerfile").read_text(encoding="utf-8")
