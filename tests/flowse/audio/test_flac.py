"""Laws of FLAC bytes: exact to half a step, never wrapped, and whole or refused."""

from __future__ import annotations

import numpy as np
import pytest

from flowse.audio.flac import flac_bytes, from_flac_bytes
from flowse.refusal import Refusal


def noise(n_samples: int, seed: int = 0) -> np.ndarray:
    return (0.1 * np.random.default_rng(seed).standard_normal(n_samples)).astype(np.float32)


def test_flac_is_exact_to_half_a_quantisation_step_and_encodes_alike_again() -> None:
    samples = noise(5000)
    data = flac_bytes(samples, 24_000)
    back, rate = from_flac_bytes(data)
    assert (rate, back.dtype) == (24_000, np.float32)
    assert np.abs(back - samples).max() <= 0.5 / 32768 + 1e-9
    assert flac_bytes(samples, 24_000) == data
    assert flac_bytes(back, 24_000) == data


def test_flac_saturates_and_does_not_wrap() -> None:
    back, _ = from_flac_bytes(flac_bytes(np.array([1.5, -1.5, 1.0, -1.0], np.float32), 24_000))
    np.testing.assert_array_equal(back, np.array([32767, -32768, 32767, -32768], np.float32) / 32768)


def test_flac_refuses_samples_that_are_not_finite() -> None:
    with pytest.raises(ValueError, match="finite"):
        flac_bytes(np.array([np.nan], np.float32), 24_000)


def test_truncated_flac_bytes_are_refused() -> None:
    data = flac_bytes(noise(5000), 24_000)
    for broken in (b"", b"fLaC", data[: len(data) // 2]):
        with pytest.raises(Refusal):
            from_flac_bytes(broken)
