"""Laws of convolution: the result is that of the direct sum, whatever the lengths."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from flowse.seeding import generator
from flowse.simulation.convolution import convolve


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 4000), st.integers(1, 700), st.integers(0, 2**31))
def test_it_agrees_with_the_direct_sum(length: int, taps: int, seed: int) -> None:
    rng = generator(seed)
    samples, response = (rng.standard_normal(n).astype(np.float32) for n in (length, taps))
    expected = np.convolve(samples.astype(np.float64), response.astype(np.float64))
    found = convolve(samples, response)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


def test_an_impulse_changes_nothing() -> None:
    samples = generator(1).standard_normal(50_000).astype(np.float32)
    np.testing.assert_allclose(convolve(samples, np.eye(1, 300, dtype=np.float32)[0])[:50_000], samples, atol=1e-5)
