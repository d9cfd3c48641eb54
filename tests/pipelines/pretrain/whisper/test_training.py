"""Laws of the training loop: the loss falls, and a stop and a resume change nothing."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pipelines.pretrain.whisper.corpus import Corpus
from pipelines.pretrain.whisper.model import Dims
from pipelines.pretrain.whisper.training import Recipe, Trainer

TINY = Recipe(dims=Dims(width=32, heads=2, encoder_layers=1, decoder_layers=1), steps=8, frame_budget=700, warmup=2)


def test_a_run_that_was_stopped_and_resumed_ends_in_the_same_state(corpus: Corpus, tmp_path: Path) -> None:
    straight = Trainer(TINY, corpus, tmp_path / "straight")
    straight.run()
    stopped = Trainer(TINY, corpus, tmp_path / "stopped")
    assert not stopped.resume()
    stopped.run(until=3)
    resumed = Trainer(TINY, corpus, tmp_path / "stopped")
    assert resumed.resume()
    assert resumed.step == 3
    resumed.run()
    assert resumed.step == straight.step == 8
    for a, b in ((straight.student, resumed.student), (straight.average, resumed.average)):
        torch.testing.assert_close(a.state_dict(), b.state_dict(), rtol=0, atol=0)


def test_a_run_that_is_stopped_saves_its_last_step(corpus: Corpus, tmp_path: Path) -> None:
    trainer = Trainer(TINY, corpus, tmp_path)

    def ask(step: int, _figures: dict[str, float]) -> None:
        if step == 3:
            trainer.stop_requested.set()

    trainer.run(report=ask, report_every=1)
    resumed = Trainer(TINY, corpus, tmp_path)
    assert resumed.resume()
    assert resumed.step == 3
    torch.testing.assert_close(resumed.student.state_dict(), trainer.student.state_dict(), rtol=0, atol=0)


def test_the_loss_falls_in_training(corpus: Corpus, tmp_path: Path) -> None:
    recipe = replace(TINY, steps=40, learning_rate=5e-3)
    seen: list[dict[str, float]] = []
    Trainer(recipe, corpus, tmp_path).run(report=lambda step, figures: seen.append(figures), report_every=10)
    assert len(seen) == 4
    for loss in ("loss/text", "loss/ctc"):
        assert seen[-1][loss] < 0.8 * seen[0][loss]


def test_the_learning_rate_rises_and_ends_near_zero() -> None:
    recipe = Recipe(steps=1_000, warmup=100)
    rates = [recipe.learning_rate_at(step) for step in range(1_000)]
    assert max(rates) == pytest.approx(recipe.learning_rate, rel=0.05)
    assert rates.index(max(rates)) in range(95, 105)
    assert rates[-1] < 0.03 * recipe.learning_rate
