"""Laws of progress: flat numbers by name, and one line that says step, losses, rate and time left."""

import pytest

from flowse.training.progress import Progress, Record, progress_line, waiting


def progress(**changes: object) -> Progress:
    figures: dict[str, object] = {
        "step": 50, "max_steps": 100, "epoch": 1.5, "losses": {"loss": 0.5, "velocity": 0.4}, "lr": 1e-3,
        "grad_norm": 2.0, "frames_per_s": 1234.0, "audio_hours_per_hour": 13.2, "data_wait": 0.1, "padding": 0.2,
        "memory_gib": 3.0, "eta_s": 75.0, **changes,
    }  # fmt: skip
    return Progress(**figures)  # type: ignore[arg-type]


def test_a_record_is_numbers_by_name() -> None:
    record = progress(validation={"loss": 0.25}).record()
    assert (record["step"], record["train_loss"], record["train_velocity"]) == (50, 0.5, 0.4)
    assert (record["validation_loss"], record["eta_s"]) == (0.25, 75.0)
    assert "validation_loss" not in progress().record()


def test_a_line_says_step_losses_rate_and_time_left() -> None:
    assert str(progress()) == "50/100 steps  loss 0.5000  1,234 frames/s (13× real time)  0:01:15 left"
    assert "validation 0.2500" in str(progress(validation={"loss": 0.25}))
    assert "MFU 41%" in progress_line({**progress().record(), "max_steps": 100, "mfu": 0.41})


def test_the_slowest_rank_is_the_one_that_was_waited_for_longest() -> None:
    history: list[Record] = [
        {"step": 1, "rank_wait": 0.3, "slowest_rank": 3.0},
        {"step": 2, "rank_wait": 0.1, "slowest_rank": 0.0},
        {"step": 3, "rank_wait": 0.2, "slowest_rank": 3.0},
        {"step": 4, "train_loss": 1.0},
    ]
    found = waiting(history)
    assert found == pytest.approx({"rank_wait": 0.2, "slowest_rank": 3.0, "slowest_rank_share": 5 / 6})
    assert waiting([{"step": 1, "rank_wait": 0.0, "slowest_rank": 0.0}]) == waiting([]) == {}
