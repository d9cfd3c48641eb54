"""Laws of protection: none for nobody, all of the input where nothing was taken out, less the more was."""

import numpy as np
import pytest
from scipy.ndimage import uniform_filter1d

from flowse.audio.protection import AROUND_S, PROTECTIONS, _around, input_share
from flowse.seeding import generator

RATE = 1000


def taken(ratio_db: float, seconds: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """A recording, and what is left of it after noise that much weaker was taken out."""
    kept, noise = generator(1).standard_normal((2, 1, round(seconds * RATE)))
    return kept + 10 ** (-ratio_db / 20) * noise, kept


@pytest.mark.parametrize("protection", PROTECTIONS)
def test_shares_are_shares_and_rise_with_what_was_kept(protection: str) -> None:
    shares = [float(input_share(*taken(ratio), protection, RATE).mean()) for ratio in range(-20, 60, 5)]
    assert shares == sorted(shares)
    assert 0 <= shares[0] <= shares[-1] <= 1
    assert (shares[-1] == 1.0) is (protection != "none")


@pytest.mark.parametrize("samples", [1, 7, 100, 1234])
def test_a_recording_that_nothing_was_taken_from_is_left_as_it_is(samples: int) -> None:
    x = generator(2).standard_normal((2, samples))
    assert (input_share(x, x, "listening", RATE) == 1).all()
    assert (input_share(x, x, "none", RATE) == 0).all()


def test_each_stretch_has_a_share_of_its_own() -> None:
    """A recording that is clean in its first half and noisy in its second is left alone in the first only."""
    clean, noisy = taken(60, 10), taken(0, 10)
    share = input_share(
        *(np.concatenate(halves, axis=1) for halves in zip(clean, noisy, strict=True)), "listening", RATE
    )
    away = round(AROUND_S * RATE)
    assert share.shape == (1, 20 * RATE)
    assert (share[0, : 10 * RATE - away] == 1).all()
    assert (share[0, 10 * RATE + away :] == 0).all()


def test_a_silent_stretch_is_no_reason_for_a_warning() -> None:
    x = np.zeros((1, 5 * RATE), np.float32)
    assert np.isfinite(input_share(x, x, "asr", RATE)).all()


def test_an_unknown_protection_is_refused() -> None:
    with pytest.raises(ValueError, match="protect='all' must be one of none, listening, asr"):
        input_share(np.ones((1, 4)), np.ones((1, 4)), "all", RATE)


@pytest.mark.parametrize("blocks", [1, 2, 7, 19, 20, 21, 60])
def test_the_power_around_a_block_is_scipys_uniform_filter(blocks: int) -> None:
    samples = np.random.default_rng(0).standard_normal((2, 100 * blocks))
    power = np.square(samples).reshape(2, blocks, 100).mean(axis=2)
    expected = uniform_filter1d(power, 20, axis=1, mode="reflect")
    np.testing.assert_allclose(_around(samples, np.arange(blocks) * 100), expected, rtol=1e-12)
