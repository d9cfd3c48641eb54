"""Laws of augmentation: each function does what its name says and leaves the rest unchanged."""

import numpy as np
import pytest

from pipelines.pretrain.whisper import augmentation
from pipelines.pretrain.whisper.augmentation import FLOOR, Mel


@pytest.fixture
def mel() -> Mel:
    rng = np.random.default_rng(0)
    ripples = np.sin(np.arange(120)[:, None] / 9) + np.sin(np.arange(80)[None] / 7)
    return (ripples + 0.1 * rng.standard_normal((120, 80))).astype(np.float32)


def test_interpolation_at_whole_positions_changes_nothing(mel: Mel) -> None:
    assert np.array_equal(augmentation.interpolate(mel, np.arange(120.0), axis=0), mel)
    assert np.array_equal(augmentation.interpolate(mel, np.arange(80.0), axis=1), mel)


def test_warp_respects_the_length_limit_and_the_range_of_values(mel: Mel) -> None:
    for seed in range(20):
        warped = augmentation.warp(mel, np.random.default_rng(seed), longest=110)
        assert 90 <= len(warped) <= 110
        assert mel.min() <= warped.min() <= warped.max() <= mel.max()


def test_very_weak_noise_changes_nothing_and_very_strong_noise_replaces_the_mel(mel: Mel) -> None:
    noise = augmentation.coloured_noise(120, np.random.default_rng(1))
    np.testing.assert_allclose(augmentation.add_noise(mel, noise, 90.0), mel, atol=1e-2)
    drowned = augmentation.add_noise(mel, noise, -90.0)
    np.testing.assert_allclose(drowned - drowned.mean(), noise - noise.mean(), atol=1e-2)


def test_noise_is_added_at_the_signal_to_noise_ratio(mel: Mel) -> None:
    loud = augmentation.add_noise(mel, mel, 0.0)  # the sum of equal powers is 3 dB louder
    np.testing.assert_allclose(loud - mel, np.log10(2), atol=1e-5)


def test_reverberation_adds_a_decaying_tail_after_the_sound() -> None:
    silence = np.full((100, 80), FLOOR, dtype=np.float32)
    silence[40] = 0.0
    wet = augmentation.reverberate(silence, np.random.default_rng(0))
    np.testing.assert_allclose(wet[:41], silence[:41], atol=0.3)  # the silence itself has a tail, too
    assert (wet[42:60] > FLOOR + 1).all()
    assert (np.diff(wet[42:, 0]) <= 1e-4).all()


def test_fine_structure_of_itself_changes_little_and_of_another_keeps_the_envelope(mel: Mel) -> None:
    donor = np.random.default_rng(3).standard_normal(mel.shape).astype(np.float32)
    for seed in range(5):
        itself = augmentation.graft_fine_structure(mel, mel, np.random.default_rng(seed))
        np.testing.assert_allclose(itself, mel, atol=1e-4)
        grafted = augmentation.graft_fine_structure(mel, donor, np.random.default_rng(seed))
        assert np.corrcoef(grafted.mean(axis=1), mel.mean(axis=1))[0, 1] > 0.95


def test_loop_to_length_repeats_or_cuts(mel: Mel) -> None:
    rng = np.random.default_rng(0)
    assert len(augmentation.loop_to_length(mel, 50, rng)) == 50
    assert len(augmentation.loop_to_length(mel, 333, rng)) == 333
    assert np.array_equal(augmentation.loop_to_length(mel, 120, rng), mel)


def test_equalise_moves_the_spectrum_towards_the_reference(mel: Mel) -> None:
    reference = mel + np.linspace(3, -3, 80, dtype=np.float32)
    wanted = reference.mean(axis=0)
    distances = [
        np.abs(augmentation.equalise(mel, np.random.default_rng(seed), target).mean(axis=0) - wanted).mean()
        for target in (None, reference)
        for seed in range(30)
    ]
    assert np.mean(distances[30:]) < np.mean(distances[:30])


def test_normalise_limits_the_range_as_whisper_does(mel: Mel) -> None:
    padded = np.concatenate([mel, np.full((10, 80), FLOOR, dtype=np.float32)])
    scaled = augmentation.normalise(padded)
    assert scaled.max() - scaled.min() == pytest.approx(2.0)
    assert scaled.max() == pytest.approx((mel.max() + 4) / 4)
