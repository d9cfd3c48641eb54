"""Laws of clipping: the share of cut samples is found, whatever gain came after, and whole waves have none."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowse.audio.clipping import clipped_share
from flowse.audio.waveform import resample
from flowse.seeding import generator


def voice(seed: int = 0, length: int = 48_000) -> np.ndarray:
    """Low-pass noise at 16 kHz: its peaks last some samples, as those of speech do."""
    return resample(generator(seed).standard_normal(length // 8).astype(np.float32), 2000, 16_000)


def cut(samples: np.ndarray, share: float) -> np.ndarray:
    """Clip so that the given share of the samples lies at the limits."""
    limit = np.quantile(np.abs(samples), 1 - share)
    return np.clip(samples, -limit, limit).astype(np.float32)


@pytest.mark.parametrize("share", [0.002, 0.01, 0.05, 0.2])
def test_the_share_of_cut_samples_is_found(share: float) -> None:
    assert clipped_share(cut(voice(), share)[None]) == pytest.approx(share, rel=0.1)


@given(st.floats(min_value=0.02, max_value=0.99))
def test_a_gain_after_clipping_hides_nothing_also_in_16_bits(gain: float) -> None:
    stored = np.round(cut(voice(), 0.02) / 4 * gain * 32768).astype(np.float32) / 32768
    assert clipped_share(stored[None]) == pytest.approx(0.02, rel=0.15)


def test_more_clipping_is_a_larger_share() -> None:
    found = [clipped_share(cut(voice(), share)[None]) for share in (0.0, 0.001, 0.01, 0.1, 0.4)]
    assert found == sorted(found)
    assert found[0] == 0.0


def test_one_polarity_and_one_channel_are_enough() -> None:
    upper = np.minimum(voice(), np.quantile(voice(), 0.98)).astype(np.float32)
    assert clipped_share(upper[None]) == pytest.approx(0.02, rel=0.1)
    assert clipped_share(np.stack([voice(1), upper])) == clipped_share(upper[None])


def test_what_was_not_cut_has_no_share() -> None:
    for seed in range(20):
        assert clipped_share(voice(seed)[None]) < 1e-4
    assert clipped_share(generator(0).standard_normal((2, 48_000)).astype(np.float32)) < 1e-4


@pytest.mark.parametrize("constant", [0.0, 0.5, -1.0])
@pytest.mark.parametrize("length", [0, 1, 1000])
def test_a_constant_is_not_clipped(constant: float, length: int) -> None:
    assert clipped_share(np.full((1, length), constant, np.float32)) == 0.0
