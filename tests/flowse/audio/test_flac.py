"""Laws of FLAC bytes: exact to half a step, never wrapped, and whole or refused."""

from __future__ import annotations

import numpy as np
import pytest

from flowse.audio import flac
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


@pytest.fixture(params=["miniaudio", "libsndfile"])
def decoder(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways to decode."""
    if request.param == "libsndfile":
        monkeypatch.setattr(flac, "miniaudio", None)
    else:
        pytest.importorskip("miniaudio")


def test_truncated_flac_bytes_are_refused(decoder: None) -> None:
    data = flac_bytes(noise(5000), 24_000)
    for broken in (b"", b"fLaC", data[: len(data) // 2], data[:-1]):
        with pytest.raises(Refusal):
            from_flac_bytes(broken)


def test_no_flipped_bit_of_the_samples_goes_unnoticed(decoder: None) -> None:
    samples, rng = noise(20_000), np.random.default_rng(1)
    data = flac_bytes(samples, 24_000)
    for _ in range(60):
        broken = bytearray(data)
        broken[int(rng.integers(100, len(data)))] ^= 1 << int(rng.integers(8))
        with pytest.raises(Refusal, match=r"undecodable|truncated"):
            from_flac_bytes(bytes(broken))


def test_both_decoders_give_the_same_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("miniaudio")
    made = [flac_bytes(noise(length, length), rate) for length, rate in ((1, 8000), (4097, 16_000), (30_000, 96_000))]
    quick = [from_flac_bytes(data) for data in made]
    monkeypatch.setattr(flac, "miniaudio", None)
    for data, (samples, rate) in zip(made, quick, strict=True):
        other, other_rate = from_flac_bytes(data)
        assert (rate, samples.dtype, samples.tobytes()) == (other_rate, other.dtype, other.tobytes())
