"""The Slurm job on raylets of this machine: stand-ins for srun and scontrol run its steps here, one after the other."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "infra" / "slurm.sbatch"

# Starts a step's command once a node, with a pause: raylets that start at once on one machine take the same ports.
SRUN = """#!/usr/bin/env bash
echo "srun $*" >>"$CALLS"
nodes=1
while [[ $1 == -* ]]; do
  [[ $1 != --nodes=* ]] || nodes=${1#*=}
  shift
done
trap 'kill $(jobs -p) 2>/dev/null; wait' TERM
exec 9>"$CALLS.lock"
flock 9
for ((node = 0; node < nodes; node++)); do
  "$@" 9>&- &
  sleep 6
done
exec 9>&-
wait
"""
SCONTROL = """#!/usr/bin/env bash
echo "scontrol $*" >>"$CALLS"
"""
# Stands for `python -m pipelines run`: waits for all nodes, says their kinds, and ends, or waits for SIGTERM and saves.
DRIVER = """
import os, signal, sys, time
import ray
def save(*_):
    print("driver saved", flush=True)
    sys.exit(130)
ray.init(address=os.environ["RAY_ADDRESS"], log_to_driver=False)
signal.signal(signal.SIGTERM, save)
end = time.monotonic() + 120
while sum(node["Alive"] for node in ray.nodes()) < int(os.environ["NODES"]):
    assert time.monotonic() < end
    time.sleep(0.2)
kinds = sorted(kind for node in ray.nodes() for kind in node["Resources"] if kind in ("cpu", "gpu_small", "gpu_large"))
print("arguments", sys.argv[1:])
print("kinds", kinds, "head CPUs", [node["Resources"].get("CPU", 0) for node in ray.nodes()].count(0), flush=True)
if "--wait" in sys.argv:
    time.sleep(120)
sys.exit(3)
"""


@pytest.fixture
def slurm(tmp_path: Path) -> dict[str, str]:
    """The environment of a job: stand-ins for Slurm's programs and for the driver come first on PATH."""
    programs = tmp_path / "bin"
    programs.mkdir()
    (tmp_path / "driver.py").write_text(DRIVER)
    python = (
        f'#!/bin/sh\n[ "$1" = -m ] || exec {sys.executable} "$@"\nexec {sys.executable} {tmp_path}/driver.py "$@"\n'
    )
    for name, text in {"srun": SRUN, "scontrol": SCONTROL, "python": python}.items():
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    return os.environ | {
        "PATH": f"{programs}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "CALLS": str(tmp_path / "calls"),
        "SLURM_SUBMIT_DIR": str(tmp_path),
        "SLURM_JOB_ID": str(os.getpid()),
        "SLURM_JOB_NUM_NODES": "1",
        "SLURMD_NODENAME": "node-0",
    }


def start(environment: dict[str, str], *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [str(SCRIPT), *arguments], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def calls(environment: dict[str, str]) -> list[str]:
    return Path(environment["CALLS"]).read_text().splitlines()


def test_every_component_offers_its_kind_and_the_exit_code_is_the_drivers(slurm: dict[str, str]) -> None:
    components = {"SLURM_HET_SIZE": "2", "FLOWSE_KINDS": "cpu gpu_small", "NODES": "4"}
    sizes = {"SLURM_JOB_NUM_NODES_HET_GROUP_0": "1", "SLURM_JOB_NUM_NODES_HET_GROUP_1": "2"}
    job = start(slurm | components | sizes, "..ingest", "--set", "seed=2")
    output, _ = job.communicate(timeout=240)
    assert job.returncode == 3, output
    assert "kinds ['cpu', 'gpu_small', 'gpu_small'] head CPUs 1" in output
    given = re.search(r"arguments \[(.*)\]", output)
    assert given is not None
    assert given[1].startswith("'-m', 'pipelines', 'run', '--cluster', 'configs/cluster/slurm.yaml', '--set', 'cluster")
    assert given[1].endswith("'..ingest', '--set', 'seed=2'")
    head, *workers = (call for call in calls(slurm) if call.startswith("srun"))
    assert "--het-group=0 " in head
    assert "--nodelist=node-0 ray start --head" in head
    assert sorted("--het-group=0 " in worker for worker in workers) == [False, True]
    assert not any("requeue" in call for call in calls(slurm))
    assert subprocess.run(["pgrep", "-f", f"ray-{os.getpid()}/"], capture_output=True, check=False).returncode == 1


@pytest.mark.parametrize(("number", "requeued"), [(signal.SIGUSR1, True), (signal.SIGTERM, False)])
def test_before_its_end_the_job_saves_and_requeues_itself(
    slurm: dict[str, str], number: signal.Signals, requeued: bool
) -> None:
    """USR1 comes before the time limit; after TERM Slurm itself requeues a preempted job, and not a cancelled one."""
    environment = slurm | {"NODES": "2", "SLURM_RESTART_COUNT": "1", "FLOWSE_RESTART_PAUSE_S": "0"}
    seen = []
    with start(environment, "--wait") as job:
        assert job.stdout is not None
        for line in job.stdout:
            seen.append(line)
            if line.startswith("kinds"):
                assert "['cpu', 'gpu_large', 'gpu_small']" in line  # a single component offers all
                job.send_signal(number)
                time.sleep(0.1)
                job.send_signal(signal.SIGTERM)
    assert job.returncode == 0, "".join(seen)
    assert "driver saved\n" in seen
    assert [call for call in calls(slurm) if call.startswith("scontrol")] == (
        [f"scontrol requeue {os.getpid()}"] if requeued else []
    )


def test_outside_of_slurm_it_says_how_it_is_used() -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SLURM")}
    done = subprocess.run([str(SCRIPT)], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode != 0
    assert "sbatch infra/slurm.sbatch" in done.stderr
