"""Laws of broken copies: half of nothing and tiles are found; recordings, tones and pauses are not taken for them."""

from __future__ import annotations

import numpy as np
import pytest

from flowse.audio.copied import refuse_copied, tile_of
from flowse.refusal import Refusal

RATE = 16_000


def noise(seconds: float, seed: int = 0) -> np.ndarray:
    return (0.1 * np.random.default_rng(seed).standard_normal(round(seconds * RATE))).astype(np.float32)


@pytest.mark.parametrize("before", [0.0, 0.5, 1.0])
def test_speech_of_which_half_is_zero_is_refused_wherever_the_zeros_are(before: float) -> None:
    zeros = np.zeros(3 * RATE, np.float32)
    sound = noise(2.9)
    cut = round(before * len(sound))
    with pytest.raises(Refusal, match=r"half_zero: a\.wav: 3\.0 of 5\.9 s"):
        refuse_copied(np.concatenate([sound[:cut], zeros, sound[cut:]]), RATE, "a.wav")


@pytest.mark.parametrize("tile_s", [0.3, 1.0, 1.7])
def test_a_stretch_that_stands_again_and_again_is_refused(tile_s: float) -> None:
    tiled = np.tile(noise(tile_s), 6)[: -RATE // 10]
    assert tile_of(tiled, RATE) == round(tile_s * RATE)
    with pytest.raises(Refusal, match="repeated_tile"):
        refuse_copied(tiled, RATE, "a.wav")


def quantised_tone() -> np.ndarray:
    tone = np.rint(16_000 * np.sin(2 * np.pi * 440 * np.arange(5 * RATE) / RATE)) / 32_768
    return tone.astype(np.float32)


SOUND = {
    "noise": noise(5.0),
    "pauses": np.concatenate([noise(1.0), np.zeros(RATE, np.float32), noise(1.0, 1)]),
    "short": noise(0.1),
    "empty": noise(0.0),
    "said twice": np.tile(noise(2.0), 2),
    "a tone": quantised_tone(),
    "a tone, tiled": np.tile(quantised_tone()[:5000], 5),
    "two levels": np.sign(noise(3.0)),
}


@pytest.mark.parametrize("name", SOUND)
def test_other_sound_passes(name: str) -> None:
    refuse_copied(SOUND[name].astype(np.float32), RATE, name)
