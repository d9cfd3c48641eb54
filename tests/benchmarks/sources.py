"""What does the flow begin from? Trains each source for the same arithmetic and prints what comes out. Takes hours.

    python tests/benchmarks/sources.py --workspace runs/flowse-small --steps 600 -- [--set key=value …]

Four systems of the same size see the same mixtures: a flow from Gaussian noise, from the noisy mel, from a regression
estimate (half of the blocks predict, half refine), and the regression alone. Data stages that are fresh in the
workspace are not run again; train and evaluate leave their usual outputs, reports and MLflow runs there.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path


def systems(depth: int) -> dict[str, dict[str, object]]:
    """The settings of each system, `depth` blocks in all."""
    return {
        "gaussian": {"train.objective": "flow", "train.flow.source": "gaussian", "train.model.depth": depth},
        "noisy": {
            "train.objective": "flow",
            "train.flow.source": "noisy",
            "train.flow.sigma": 0.5,
            "train.model.depth": depth,
        },
        "predicted": {
            "train.objective": "flow",
            "train.flow.source": "predicted",
            "train.flow.sigma": 0.15,
            "train.predictor": "dit",
            "train.flow.predictor_depth": depth - depth // 2,
            "train.model.depth": depth // 2,
        },
        "regression": {"train.objective": "regression", "train.predictor": "dit", "train.model.depth": depth},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experiment", default="configs/experiment/flowse-small.yaml")
    parser.add_argument("--workspace", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--depth", type=int, default=8, help="blocks of each system, all together")
    parser.add_argument("more", nargs="*", help="more arguments of `python -m pipelines run`, after --")
    arguments = parser.parse_args()
    print(f"{arguments.steps} steps each, {arguments.depth} blocks in all")
    for name, settings in systems(arguments.depth).items():
        wanted = {**settings, "train.max_steps": arguments.steps, "evaluate.sampling.steps": 8, "train.select": "last"}
        sets = [word for key, value in wanted.items() for word in ("--set", f"{key}={value}")]
        where = ["--experiment", arguments.experiment, "--workspace", str(arguments.workspace)]
        command = [sys.executable, "-m", "pipelines", "run", "train..evaluate", *where, *sets, *arguments.more]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(done.stdout + done.stderr)
        newest = max((arguments.workspace / "evaluate").glob("*/summary.json"), key=lambda path: path.stat().st_mtime)
        print(f"\n{name}", flush=True)
        for row in json.loads(newest.read_text(encoding="utf-8"))["summary"]:
            if row["group"] == "all":
                gain = row["gain"]
                print(
                    f"  {row['metric']:<20} noisy {row['noisy']:6.3f}  enhanced {row['enhanced']:6.3f}  "
                    f"{gain['value']:+.3f} [{gain['low']:+.3f}, {gain['high']:+.3f}]",
                    flush=True,
                )


if __name__ == "__main__":
    main()
