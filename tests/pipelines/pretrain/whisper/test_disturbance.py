"""Disturbances of log-mels: each does what its name says and leaves the rest alone."""

import numpy as np
import pytest

from pipelines.pretrain.whisper import disturbance
from pipelines.pretrain.whisper.disturbance import FLOOR, Mel


@pytest.fixture
def mel() -> Mel:
    rng = np.random.default_rng(0)
    ripples = np.sin(np.arange(120)[:, None] / 9) + np.sin(np.arange(80)[None] / 7)
    return (ripples + 0.1 * rng.standard_normal((120, 80))).astype(np.float32)


def test_reading_at_whole_positions_changes_nothing(mel: Mel) -> None:
    assert np.array_equal(disturbance.interpolate(mel, np.arange(120.0), axis=0), mel)
    assert np.array_equal(disturbance.interpolate(mel, np.arange(80.0), axis=1), mel)


def test_a_warp_keeps_to_its_limit_and_to_the_range_of_values(mel: Mel) -> None:
    for seed in range(20):
        warped = disturbance.warp(mel, np.random.default_rng(seed), longest=110)
        assert 90 <= len(warped) <= 110
        assert mel.min() <= warped.min() <= warped.max() <= mel.max()


def test_noise_far_below_is_not_heard_and_far_above_is_all_that_is_heard(mel: Mel) -> None:
    noise = disturbance.hiss(120, np.random.default_rng(1))
    np.testing.assert_allclose(disturbance.add(mel, noise, 90.0), mel, atol=1e-2)
    drowned = disturbance.add(mel, noise, -90.0)
    np.testing.assert_allclose(drowned - drowned.mean(), noise - noise.mean(), atol=1e-2)


def test_the_signal_to_noise_ratio_is_met(mel: Mel) -> None:
    loud = disturbance.add(mel, mel, 0.0)  # equal powers: 3 dB more
    np.testing.assert_allclose(loud - mel, np.log10(2), atol=1e-5)


def test_reverberation_only_adds_and_only_afterwards() -> None:
    silence = np.full((100, 80), FLOOR, dtype=np.float32)
    silence[40] = 0.0
    wet = disturbance.reverberate(silence, np.random.default_rng(0))
    np.testing.assert_allclose(wet[:41], silence[:41], atol=0.3)  # the silence has a tail as well
    assert (wet[42:60] > FLOOR + 1).all()
    assert (np.diff(wet[42:, 0]) <= 1e-4).all()


def test_a_graft_of_itself_changes_little_and_of_another_keeps_the_outline(mel: Mel) -> None:
    donor = np.random.default_rng(3).standard_normal(mel.shape).astype(np.float32)
    for seed in range(5):
        itself = disturbance.graft(mel, mel, np.random.default_rng(seed))
        np.testing.assert_allclose(itself, mel, atol=1e-4)
        grafted = disturbance.graft(mel, donor, np.random.default_rng(seed))
        assert np.corrcoef(grafted.mean(axis=1), mel.mean(axis=1))[0, 1] > 0.95


def test_fitting_repeats_or_cuts_to_the_frames_asked_for(mel: Mel) -> None:
    rng = np.random.default_rng(0)
    assert len(disturbance.fit(mel, 50, rng)) == 50
    assert len(disturbance.fit(mel, 333, rng)) == 333
    assert np.array_equal(disturbance.fit(mel, 120, rng), mel)


def test_colour_moves_towards_the_model(mel: Mel) -> None:
    model = mel + np.linspace(3, -3, 80, dtype=np.float32)
    distances = [
        np.abs(disturbance.colour(mel, np.random.default_rng(seed), target).mean(axis=0) - model.mean(axis=0)).mean()
        for target in (None, model)
        for seed in range(30)
    ]
    assert np.mean(distances[30:]) < np.mean(distances[:30])


def test_normalising_limits_the_range_as_whisper_does(mel: Mel) -> None:
    padded = np.concatenate([mel, np.full((10, 80), FLOOR, dtype=np.float32)])
    scaled = disturbance.normalise(padded)
    assert scaled.max() - scaled.min() == pytest.approx(2.0)
    assert scaled.max() == pytest.approx((mel.max() + 4) / 4)
