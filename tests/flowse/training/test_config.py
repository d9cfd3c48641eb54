"""Laws of the training's settings: impossible ones are refused by name, and what changes the weights is marked."""

import dataclasses

import pytest

from flowse.training.config import LoopConfig, OptimConfig, TrainConfig
from tests.small_shards import TINY


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("select", "first"),
        ("parallel", "tp"),
        ("max_frames", 500),
        ("micro_frames", 50),
        ("objective", "gan"),
        ("predictor", "lstm"),
        ("precision", "fp16"),
        ("max_steps", 0),
        ("patience", -1),
        ("statistics_utterances", 0),
        ("loader_threads", 0),
        ("loader_processes", -1),
        ("mel_cache_gb", -1.0),
        ("max_skipped_steps", -1),
        ("max_skipped_share", 1.5),
        ("divisible_by", -2),
    ],
)
def test_impossible_settings_are_refused_by_name(key: str, value: object) -> None:
    with pytest.raises(ValueError, match=key):
        dataclasses.replace(TINY, **{key: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("schedule", "step"),
        ("lr", 0.0),
        ("warmup_steps", -1),
        ("clip", -1.0),
        ("ema_decay", 1.0),
        ("beta_2", -0.1),
        ("final_fraction", 2.0),
    ],
)
def test_an_impossible_optimiser_is_refused_by_name(key: str, value: object) -> None:
    with pytest.raises(ValueError, match=key):
        OptimConfig(**{key: value})  # type: ignore[arg-type]


def test_what_cannot_change_the_weights_is_not_in_the_fingerprint() -> None:
    left_out = {field.name for field in dataclasses.fields(TrainConfig) if not field.metadata.get("fingerprint", True)}
    assert left_out == {
        "log_every", "checkpoint_every", "keep_last", "micro_frames", "examples", "vocoder", "loader_threads",
        "parallel", "compile", "activation_checkpointing", "max_skipped_steps", "max_skipped_share",
        "tensorboard", "profile_steps", "loader_processes", "mel_cache_folder", "mel_cache_gb",
    }  # fmt: skip


def test_a_training_repeats_no_setting_of_its_loop() -> None:
    own = set(TrainConfig.__annotations__)
    assert not own & {field.name for field in dataclasses.fields(LoopConfig)}


def test_the_spec_is_the_settings_without_what_the_data_says() -> None:
    spec = TINY.spec()
    assert (spec.mel, spec.model, spec.flow, spec.dual_path) == (TINY.mel, TINY.model, TINY.flow, TINY.dual_path)
    assert (spec.vocabulary, spec.mel_mean, spec.mel_std) == ((), 0.0, 1.0)
