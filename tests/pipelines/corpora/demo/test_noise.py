"""Laws of synthetic noise: each kind has its spectrum and envelope, and the generator decides every sample."""

import numpy as np
import numpy.typing as npt
import pytest

from pipelines.corpora.demo.noise import KINDS, PEAK, make_noise

RATE = 16_000


def noise(kind: str, seed: int = 0, seconds: float = 2.0, rate: int = RATE) -> npt.NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    voices = [np.random.default_rng(9).standard_normal(rate).astype(np.float32)]
    return make_noise(kind, seconds, rate, rng, voices)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rate", [8_000, 24_000])
def test_length_peak_and_repeatability(kind: str, rate: int) -> None:
    first, again, other = (noise(kind, seed, 1.5, rate) for seed in (1, 1, 2))
    assert len(first) == 1.5 * rate
    assert first.dtype == np.float32
    assert np.abs(first).max() == pytest.approx(PEAK)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize(("kind", "slope_db_per_octave"), [("white", 0), ("pink", -3), ("brown", -6)])
def test_coloured_noise_falls_by_its_slope(kind: str, slope_db_per_octave: float) -> None:
    power = np.abs(np.fft.rfft(noise(kind, seconds=20.0))) ** 2
    frequencies = np.fft.rfftfreq(20 * RATE, 1 / RATE)
    octaves = [power[(frequencies >= f) & (frequencies < 2 * f)].mean() for f in (125, 250, 500, 1000, 2000)]
    slope = np.polyfit(np.arange(5), 10 * np.log10(octaves), 1)[0]
    assert slope == pytest.approx(slope_db_per_octave, abs=0.3)


def test_hum_has_its_power_at_multiples_of_the_mains_frequency() -> None:
    power = np.abs(np.fft.rfft(noise("hum", seconds=4.0))) ** 2
    mains_hz = min((50, 60), key=lambda f: -power[4 * f - 4 : 4 * f + 5].sum())
    harmonics = sum(power[round(4 * k * mains_hz) - 8 : round(4 * k * mains_hz) + 9].sum() for k in range(1, 12))
    assert harmonics > 0.9 * power.sum()


def test_impacts_and_wind_are_less_stationary_than_hiss() -> None:
    def unevenness(kind: str) -> float:
        levels = (noise(kind, seconds=6.0)[: 120 * 800].reshape(120, 800) ** 2).mean(axis=1)
        return float(levels.std() / levels.mean())

    assert min(unevenness(kind) for kind in ("clatter", "keyboard", "wind", "alarm")) > 3 * unevenness("white")


def test_an_unknown_kind_and_babble_without_voices_are_refused() -> None:
    with pytest.raises(ValueError, match=r"'thunder'.*wind"):
        make_noise("thunder", 1.0, RATE, np.random.default_rng(0))
    with pytest.raises(ValueError, match="speech"):
        make_noise("babble", 1.0, RATE, np.random.default_rng(0))
