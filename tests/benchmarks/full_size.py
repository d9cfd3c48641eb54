"""What enhancement costs at the paper's size, from 64 evaluations down to one, with fewer bits. Prints a table.

    python -m tests.benchmarks.full_size [--seconds 5] [--threads 2] [--baseline 64] [--only fp32,int8] [--repeat 1]

Random weights (speed does not depend on them), vocoder included. The first row stands for the official code: the same
network in the layout that `flowse import-official` reads (rotary positions on head 0), 64 Euler evaluations in 32 bits,
text and time encoded at every one, all frames masked; `--baseline 8` measures 8 of them and multiplies. The other rows
are this project's: text and time encoded once, jumps of 1, 2 and 4 evaluations. Ratios are of processor time, as other
programs may run; wall time stands beside it.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
import warnings

import numpy as np
import torch

from flowse.audio.vocoder import load_vocoder
from flowse.enhancer import Enhancer
from flowse.flow.sampling import Sampling
from flowse.flow.solver import sample
from flowse.model.precision import reduce_precision
from flowse.model.spec import PAPER, ModelSpec
from flowse.model.system import System, build
from flowse.pretrained import resolve
from flowse.tokenizer import Tokenizer
from tests.benchmarks.machine import describe, table

TEXT = "the quick brown fox jumps over the lazy dog"


class OfficialWay(System):
    """Samples as the official code does: nothing is computed once."""

    def _generate(self, y, mask, ids, seeds, counts, sampling):
        mask = torch.ones(y.shape[:2], dtype=torch.bool)
        x_0 = torch.randn(y.shape, generator=torch.Generator().manual_seed(seeds[0]))
        solution = sample(lambda x, t, null, packed: self.network(x, t, y, mask, ids), x_0, sampling)
        return solution.x_1, solution.evaluations


def enhancer_of(spec: ModelSpec, precision: str, official: bool = False) -> Enhancer:
    """Build a model with random weights."""
    torch.manual_seed(0)
    system = build(spec).eval().requires_grad_(False)
    with torch.no_grad():
        for weight in system.parameters():
            if weight.ndim > 1 and not weight.any():
                weight.normal_(std=0.02)
    if official:
        system.__class__ = OfficialWay
    reduce_precision(system, precision)
    return Enhancer(system, spec, load_vocoder(resolve("vocos-mel-24khz-small")))


def cost(enhancer: Enhancer, steps: int, noisy: np.ndarray, repeat: int) -> tuple[float, float]:
    """Return processor and wall seconds of the fastest run, after one that warms up."""
    enhancer.enhance(noisy[:24_000], 24_000, TEXT, sampling=Sampling(steps=1))
    found = []
    for _ in range(repeat):
        before = time.process_time(), time.perf_counter()
        enhancer.enhance(noisy, 24_000, TEXT, sampling=Sampling(steps=steps))
        found.append((time.process_time() - before[0], time.perf_counter() - before[1]))
    return min(found)


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--baseline", type=int, default=64)
    parser.add_argument("--only", default="fp32,bf16,int8")
    parser.add_argument("--repeat", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    warnings.simplefilter("ignore")
    print(describe(), flush=True)
    noisy = (0.1 * np.random.default_rng(0).standard_normal(round(arguments.seconds * 24_000))).astype(np.float32)
    spec = ModelSpec(model=dataclasses.replace(PAPER, rotary="first"), vocabulary=Tokenizer.default().vocabulary)
    official = enhancer_of(spec, "fp32", official=True)
    times = 64 / arguments.baseline
    whole = tuple(times * seconds for seconds in cost(official, arguments.baseline, noisy, arguments.repeat))
    note = "" if times == 1 else f", {arguments.baseline} measured"
    rows = [[f"official layout, fp32{note}", "64", *(f"{seconds:.2f}" for seconds in whole), "1.0"]]
    print(table(("", "evaluations", "CPU s", "wall s", "ratio"), rows), flush=True)
    del official
    for precision in arguments.only.split(","):
        enhancer = enhancer_of(dataclasses.replace(spec, jumps=True), precision)
        for steps in (4, 2, 1):
            found = cost(enhancer, steps, noisy, max(2, arguments.repeat))
            rows.append([f"jumps, {precision}", str(steps), *(f"{value:.2f}" for value in found)])
            rows[-1].append(f"{whole[0] / found[0]:.1f}")
            print(rows[-1], flush=True)
    print(table(("", "evaluations", "CPU s", "wall s", "ratio"), rows))


if __name__ == "__main__":
    main()
