"""Trainings by steps or by the clock: their rates, their end, their checkpoints, and the options they share."""

from __future__ import annotations

import argparse
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from flowse.errors import UserError
from pipelines.pretrain import scheduled
from pipelines.pretrain.scheduled import Schedule, ScheduledTraining, add_options, command, train_to_end


def _schedule(**changes: Any) -> Schedule:
    return Schedule(**{"steps": 100, "seconds": 0.0, "lr": 1e-2, "warmup": 0.1, "final_fraction": 0.05, **changes})


class _Descent(ScheduledTraining):
    """Learns one number."""

    def __init__(self, schedule: Schedule, target: float = 3.0) -> None:
        super().__init__(schedule, torch.device("cpu"), "descent")
        self.weight = nn.Parameter(torch.zeros(1))
        self.unused = nn.Parameter(torch.zeros(1))
        self.optimizer = torch.optim.Adam([self.weight], schedule.lr)
        self.target = target

    def advance(self) -> dict[str, Tensor]:
        loss = (self.weight - self.target).square().sum()
        self.descend(loss, [self.weight, self.unused], 1.0)
        return {"loss": loss.detach()}

    def state(self) -> dict[str, Any]:
        return {"weight": self.weight.detach()}

    def restore(self, state: dict[str, Any]) -> None:
        self.weight.data.copy_(state["weight"])


def test_the_rate_rises_to_its_peak_and_falls_to_its_fraction_of_it() -> None:
    schedule = _schedule()
    assert schedule.rate(0.0) == pytest.approx(0.02 * 1e-2)
    assert schedule.rate(0.1) == pytest.approx(1e-2)
    assert schedule.rate(0.55) == pytest.approx((0.05 + 0.95 / 2) * 1e-2)
    assert schedule.rate(1.0) == pytest.approx(0.05 * 1e-2)
    rates = [schedule.rate(0.1 + 0.009 * index) for index in range(101)]
    assert rates == sorted(rates, reverse=True)


def test_progress_is_of_steps_or_of_seconds_and_never_above_1() -> None:
    assert _schedule().progress(25, 1e9) == 0.25
    assert _schedule(seconds=50.0).progress(10**9, 10.0) == 0.2
    assert _schedule().progress(200, 0.0) == 1.0


def test_a_resumed_training_ends_where_an_unbroken_one_does(tmp_path: Path) -> None:
    whole, first, second = (_Descent(_schedule(steps=10)) for _ in range(3))
    assert [line.split()[:2] for line in whole.run(log_every=4)] == [["descent", "4"], ["descent", "8"]]
    for _ in range(4):
        first.advance()
    first.save(tmp_path / "checkpoint.pt")
    second.load(tmp_path / "checkpoint.pt")
    assert second.step == 4
    list(second.run())
    assert second.step == whole.step == 10
    assert torch.equal(second.weight, whole.weight)


def test_the_clock_ends_a_training_and_goes_on_after_a_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks = iter(range(10_000))
    monkeypatch.setattr(scheduled.time, "monotonic", lambda: float(next(ticks)))
    first, second = (_Descent(_schedule(seconds=20.0)) for _ in range(2))
    list(first.run())
    assert first.spent >= 20
    assert first.step < 100
    first.spent = 10.0
    first.save(tmp_path / "checkpoint.pt")
    second.load(tmp_path / "checkpoint.pt")
    assert second.progress == 0.5


def test_a_loss_that_is_not_finite_ends_the_training() -> None:
    with pytest.raises(FloatingPointError, match="step 50"):
        list(_Descent(_schedule(), target=float("nan")).run())


def test_a_signal_saves_and_stops_and_the_end_saves_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    checkpoint = tmp_path / "checkpoint.pt"
    try:
        stopped = _Descent(_schedule())
        advance = stopped.advance

        def advanced() -> dict[str, Tensor]:
            if stopped.step == 30:
                signal.raise_signal(signal.SIGTERM)
            return advance()

        stopped.advance = advanced  # type: ignore[method-assign]
        assert not train_to_end(stopped, checkpoint, 1e9)
        resumed = _Descent(_schedule())
        resumed.load(checkpoint)
        assert resumed.step == 50
        assert train_to_end(resumed, checkpoint, 1e9)
    finally:
        for number, handler in zip((signal.SIGTERM, signal.SIGINT), before, strict=True):
            signal.signal(number, handler)
    assert torch.load(checkpoint)["step"] == 100
    assert capsys.readouterr().out.count("descent") == 2


def test_options_have_the_recipes_defaults_and_errors_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path)
    add_options(parser, steps=None, batch=7, seed=3, precision="")
    args = parser.parse_args(["--out", str(tmp_path / "new")])
    assert (args.steps, args.batch, args.seed, args.precision, args.seconds) == (None, 7, 3, "", 0.0)

    def refuse(args: argparse.Namespace) -> None:
        raise UserError(f"{args.out.name}: refused")

    threads = torch.get_num_threads()
    try:
        assert command(args, lambda _: None) == 0
        assert command(args, refuse) == 2
    finally:
        torch.set_num_threads(threads)
    assert capsys.readouterr().err == "error: new: refused\n"
    given = argparse.ArgumentParser()
    add_options(given, steps=5, batch=1, seed=0, precision="fp32")
    with pytest.raises(SystemExit):
        given.parse_args(["--precision", ""])
