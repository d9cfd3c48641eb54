"""The cluster of three raylets: it has three nodes, passes the command's exit code on, and leaves nothing behind."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "infra" / "three_raylets.sh"
PROBE = """
import os, sys, ray
ray.init(log_to_driver=False)
assert sum(node["Alive"] for node in ray.nodes()) == 3
assert ray.cluster_resources()["CPU"] == 3

@ray.remote(num_cpus=1)
class Where:
    def node(self):
        return ray.get_runtime_context().get_node_id()

actors = [Where.remote() for _ in range(3)]
assert len(set(ray.get([actor.node.remote() for actor in actors]))) == 3
sys.exit(7)
"""


def test_three_raylets_serve_one_command(tmp_path: Path) -> None:
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        [str(SCRIPT), "-c", "1", sys.executable, "-c", PROBE],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        env=environment,
        cwd=tmp_path,
    )
    assert done.returncode == 7, done.stderr
    started = done.stderr.partition("processes ")[2].split("\n")[0].split()
    assert len(started) == 3
    assert not any(Path("/proc", process).exists() for process in started)
