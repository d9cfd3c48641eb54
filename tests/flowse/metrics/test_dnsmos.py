"""Laws of DNSMOS: it agrees with speechmos, ranks by noise, and takes input that makes speechmos fail."""

import numpy as np
import pytest

pytest.importorskip("speechmos", reason="the [pipeline] extra is not installed")

from flowse.metrics.dnsmos import RATE, Dnsmos
from flowse.seeding import generator


@pytest.fixture(scope="module")
def dnsmos() -> Dnsmos:
    return Dnsmos(threads=1)


@pytest.fixture(scope="module")
def recording() -> np.ndarray:
    n = round(4.6 * RATE)  # repeated once it makes a single 9-s segment
    t = np.arange(n) / RATE
    phase = 2 * np.pi * np.cumsum(140 + 30 * np.sin(2 * np.pi * 0.9 * t)) / RATE
    voiced = sum(np.sin(k * phase) / k for k in range(1, 25))
    return (0.1 * np.clip(np.sin(2 * np.pi * 2 * t), 0, None) * voiced).astype(np.float32)


def test_agrees_with_speechmos(dnsmos: Dnsmos, recording: np.ndarray) -> None:
    from speechmos import dnsmos as reference

    theirs = reference.run(recording, RATE)
    ours = dnsmos(recording, RATE)
    assert ours.ovrl == pytest.approx(theirs["ovrl_mos"], abs=1e-3)
    assert ours.sig == pytest.approx(theirs["sig_mos"], abs=1e-3)
    assert ours.bak == pytest.approx(theirs["bak_mos"], abs=1e-3)
    assert ours.p808 == pytest.approx(theirs["p808_mos"], abs=1e-3)


def test_noise_lowers_the_background_score(dnsmos: Dnsmos, recording: np.ndarray) -> None:
    hiss = 0.1 * generator(0).standard_normal(len(recording)).astype(np.float32)
    assert dnsmos(recording + hiss, RATE).bak < dnsmos(recording, RATE).bak - 0.5


def test_the_same_recording_scores_the_same(dnsmos: Dnsmos, recording: np.ndarray) -> None:
    assert dnsmos(recording, RATE) == dnsmos(recording, RATE)


def test_a_recording_beyond_full_scale_is_scaled_down(dnsmos: Dnsmos, recording: np.ndarray) -> None:
    loud = recording * (3 / np.abs(recording).max())
    assert dnsmos(loud, RATE).ovrl == pytest.approx(dnsmos(loud / 3, RATE).ovrl, abs=1e-3)


def test_no_samples_and_nan_are_errors(dnsmos: Dnsmos) -> None:
    with pytest.raises(ValueError, match="at least one sample"):
        dnsmos(np.zeros(0, np.float32), RATE)
    with pytest.raises(ValueError, match="finite"):
        dnsmos(np.full(100, np.nan, np.float32), RATE)
