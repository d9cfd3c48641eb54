"""Which settings of a distillation matter: a flow in the plane that learns in seconds, distilled in several ways.

    python -m tests.benchmarks.distil_toy [--budget 4000] [--only NAME …]

The condition is an angle, and speech one of three points on a circle, 120 degrees apart, with a little spread: a mean
of them is no answer, so that a single step of the plain flow fails. Every setting gets the same number of evaluations
of a network (a gradient counts as three), in multiples of a batch. Printed are the energy distance of samples to data
(a second draw of data has about 0.001) at 1, 2 and 4 evaluations, and their mean squared distance to what the teacher
makes of the same noise in 32 steps.
"""

from __future__ import annotations

import argparse
import copy
import math
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from flowse.flow.average_velocity import Intervals, average_velocity_loss, sample_by_jumps, targets
from flowse.flow.config import DistilConfig
from flowse.flow.path import point
from flowse.training.optim import MovingAverage

BATCH, WIDTH, SPREAD, TEST = 256, 128, 0.12, 2000
NOW = DistilConfig(early=0.0, early_span=1.0, teacher_steps=2)
SETTINGS: dict[str, tuple[DistilConfig, dict[str, float]]] = {
    "defaults of train.distil": (DistilConfig(), {}),
    "teacher_steps 2": (DistilConfig(teacher_steps=2), {}),
    "teacher_steps 2, early 0": (NOW, {}),
    "… teacher alone": (DistilConfig(**{**vars(NOW), "flow_share": 0.0, "teacher_share": 1.0}), {}),
    "… own jumps 0.5": (DistilConfig(**{**vars(NOW), "flow_share": 0.25}), {}),
    "… power 0": (DistilConfig(**{**vars(NOW), "power": 0.0}), {}),
    "… power 1": (DistilConfig(**{**vars(NOW), "power": 1.0}), {}),
    "… rate 2e-3": (NOW, {"lr": 2e-3}),
    "… average 0.999": (NOW, {"decay": 0.999}),
}
"""What is compared; "…" begins with the third."""


class Network(nn.Module):
    """A small network of state, time, the interval's length and the angle; counts evaluations of rows."""

    def __init__(self, jumps: bool) -> None:
        super().__init__()
        self.input = nn.Linear(4, WIDTH)
        self.time, self.span = (nn.Sequential(nn.Linear(16, WIDTH), nn.SiLU(), nn.Linear(WIDTH, WIDTH)) for _ in (1, 2))
        self.jumps = jumps
        for parameter in self.span[-1].parameters():
            nn.init.zeros_(parameter)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 256), nn.SiLU(), nn.Linear(256, WIDTH))
            for _ in (1, 2, 3)
        )
        self.out = nn.Linear(WIDTH, 2)
        self.rows = 0

    def forward(self, x: Tensor, t: Tensor, angle: Tensor, r: Tensor | None = None) -> Tensor:
        """Return the (average) velocity, ``[B, 1, 2]``."""
        self.rows += len(x)
        hidden = self.input(torch.cat((x[:, 0], angle.cos()[:, None], angle.sin()[:, None]), dim=-1))
        context = self.time(_waves(t))
        if self.jumps:
            context = context + self.span(_waves((t if r is None else r) - t))
        for block in self.blocks:
            hidden = hidden + block(hidden + context)
        out: Tensor = self.out(hidden)[:, None]
        return out


def _waves(t: Tensor) -> Tensor:
    phase = t[:, None] * 2 ** torch.arange(8.0) / 2
    return torch.cat((phase.sin(), phase.cos()), dim=-1)


def data(count: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw points ``[B, 1, 2]`` and their angles."""
    angle = torch.rand(count, generator=rng) * 2 * math.pi
    place = angle + torch.randint(3, (count,), generator=rng) * (2 * math.pi / 3)
    points = 1.5 * torch.stack((place.cos(), place.sin()), dim=-1)
    return (points + SPREAD * torch.randn(count, 2, generator=rng))[:, None], angle


def _rate(peak: float, progress: float) -> float:
    return peak * (0.02 + 0.98 * (1 + math.cos(math.pi * progress)) / 2)


def _descend(optimizer: torch.optim.Optimizer, loss: Tensor, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.zero_grad()
    torch.autograd.backward(loss)
    optimizer.step()


def flow(steps: int) -> Network:
    """Train the teacher."""
    torch.manual_seed(0)
    rng, network = torch.Generator().manual_seed(0), Network(jumps=False)
    average, optimizer = MovingAverage(network, 0.998), torch.optim.AdamW(network.parameters())
    for step in range(steps):
        x_1, angle = data(BATCH, rng)
        path = point(torch.randn(x_1.shape, generator=rng), x_1, torch.rand(BATCH, generator=rng))
        _descend(optimizer, (network(path.x_t, path.t, angle) - path.u_t).square().mean(), _rate(2e-3, step / steps))
        average.update()
    with average.applied():
        return copy.deepcopy(network).eval()


def distil(teacher: Network, config: DistilConfig, budget: int, lr: float = 5e-4, decay: float = 0.99) -> Network:
    """Distil the teacher within a budget of evaluated rows."""
    rng, student = torch.Generator().manual_seed(2), Network(jumps=True)
    student.load_state_dict(teacher.state_dict())
    for parameter in student.span[-1].parameters():
        nn.init.zeros_(parameter)
    average, optimizer = MovingAverage(student, decay), torch.optim.AdamW(student.parameters())
    spent = 0.0
    while spent < budget:
        x_1, angle = data(BATCH, rng)
        even = (torch.arange(BATCH) + torch.rand(BATCH, generator=rng)) / BATCH
        uniform = torch.rand(BATCH, 3, generator=rng)
        uniform[:, 0] = (torch.arange(BATCH) + 0.5) / BATCH
        t = even[torch.randperm(BATCH, generator=rng)]
        intervals = Intervals.of(t, uniform, config, spent / budget)
        path = point(torch.randn(x_1.shape, generator=rng), x_1, intervals.t)
        teacher.rows = student.rows = 0

        def of(network: Network, angle: Tensor = angle) -> Callable[[Tensor], Callable[..., Tensor]]:
            return lambda rows: lambda x, begin, *end: network(x, begin, angle[rows], *end)

        with average.applied():
            target = targets(path, intervals, of(teacher), of(student), config.teacher_steps)
        u = student(path.x_t, intervals.t, angle, intervals.r)
        loss = average_velocity_loss(u, target, None, config)["loss"].mean()
        _descend(optimizer, loss, _rate(lr, spent / budget))
        average.update()
        spent += teacher.rows + student.rows + 2 * BATCH
    with average.applied():
        return copy.deepcopy(student).eval()


def energy_distance(x: Tensor, y: Tensor) -> float:
    """Return the energy distance of two samples, ``[N, 2]`` each."""
    within = sum(torch.cdist(of, of).sum() / (len(of) * (len(of) - 1)) for of in (x, y))
    return float(2 * torch.cdist(x, y).mean() - within)


def main() -> None:
    """Print a row a setting."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budget", type=int, default=4000, help="batches evaluated")
    parser.add_argument("--only", nargs="+", default=list(SETTINGS), choices=list(SETTINGS), metavar="NAME")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rng = torch.Generator().manual_seed(5)
    (truth, angle), x_0 = data(TEST, rng), torch.randn(TEST, 1, 2, generator=rng)
    turned = torch.stack((angle.cos(), angle.sin(), -angle.sin(), angle.cos()), dim=-1).view(TEST, 2, 2)

    def distance(x: Tensor) -> float:
        # Turned back by their angles, all conditions have the same three points.
        back, half = [(turned @ of.mT)[..., 0] for of in (x, truth)], TEST // 2
        return energy_distance(back[0][:half], back[1][half:])

    teacher = flow(3000)
    made = {n: sample_by_jumps(lambda x, t, r: teacher(x, t, angle), x_0, n).x_1 for n in (1, 2, 4, 32)}
    print("the flow, Euler 1 2 4 32:", *(f"{distance(x):.4f}" for x in made.values()), flush=True)
    for name in arguments.only:
        config, changes = SETTINGS[name]
        begun = time.process_time()
        student = distil(teacher, config, arguments.budget * BATCH, **changes)
        jumped = [sample_by_jumps(lambda x, t, r: student(x, t, angle, r), x_0, n).x_1 for n in (1, 2, 4)]  # noqa: B023
        apart = [float((x - made[32]).square().mean()) for x in jumped]
        print(
            f"{name:<26} to data", *(f"{distance(x):.4f}" for x in jumped), " to the teacher",
            *(f"{value:.4f}" for value in apart), f" {time.process_time() - begun:.0f} s", flush=True,
        )  # fmt: skip


if __name__ == "__main__":
    main()
