"""Synthetic noise of a dozen kinds, from hiss to sirens, drawn from a random generator."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

Audio = npt.NDArray[np.float32]
_Signal = npt.NDArray[np.float64]
_Maker = Callable[[int, int, np.random.Generator], _Signal]

PEAK = 0.5
"""Largest magnitude of every noise; the simulation chooses its level in a mixture."""


def _coloured(n: int, rng: np.random.Generator, exponent: float) -> _Signal:
    """Return noise whose power falls with frequency as f ** -exponent."""
    spectrum = np.fft.rfft(rng.standard_normal(n))
    frequency = np.arange(len(spectrum), dtype=np.float64)
    frequency[0] = 1.0
    spectrum *= frequency ** (-exponent / 2)
    spectrum[0] = 0.0
    return np.fft.irfft(spectrum, n)


def _band(x: _Signal, low_hz: float, high_hz: float, rate: int) -> _Signal:
    """Return the band between two frequencies; both are limited to those that the sample rate can represent."""
    import scipy.signal  # takes half a second, and the config needs only `KINDS`

    nyquist = rate / 2
    edges = [max(low_hz, 10.0) / nyquist, min(high_hz, 0.95 * nyquist) / nyquist]
    kept: _Signal = scipy.signal.sosfilt(scipy.signal.butter(2, edges, "bandpass", output="sos"), x)
    return kept


def _wander(n: int, rate: int, rng: np.random.Generator, per_second: float, low: float, high: float) -> _Signal:
    """Return a smooth random curve between `low` and `high` with about `per_second` turning points a second."""
    knots = rng.uniform(low, high, size=max(3, int(n / rate * per_second) + 2))
    # Cosine interpolation between the knots has neither corners nor overshoot.
    place = np.linspace(0, len(knots) - 1.001, n)
    left = place.astype(int)
    weight = (1 - np.cos(np.pi * (place - left))) / 2
    curve: _Signal = knots[left] * (1 - weight) + knots[left + 1] * weight
    return curve


def _tone(frequency_hz: _Signal | float, n: int, rate: int) -> _Signal:
    """Return a sine whose frequency may change from sample to sample."""
    return np.sin(2 * np.pi * np.cumsum(np.broadcast_to(frequency_hz, (n,))) / rate)


def _rings(
    n: int, rate: int, rng: np.random.Generator, starts: npt.NDArray[np.int64], low_hz: float, high_hz: float
) -> _Signal:
    """Return impacts: at each start, a few decaying partials and a click of noise."""
    x = np.zeros(n)
    for start in starts:
        decay_s = rng.uniform(0.01, 0.15)
        t = np.arange(min(n - start, int(6 * decay_s * rate))) / rate
        partials = rng.uniform(low_hz, min(high_hz, 0.45 * rate), size=int(rng.integers(2, 6)))
        ring = sum(rng.uniform(0.2, 1.0) * np.sin(2 * np.pi * f * t + rng.uniform(0, 6.3)) for f in partials) * np.exp(
            -t / decay_s
        )
        click = rng.standard_normal(len(t)) * np.exp(-t / 0.004)
        x[start : start + len(t)] += rng.uniform(0.2, 1.0) * (ring + click)
    return x


def _moments(n: int, rate: int, rng: np.random.Generator, per_second: float) -> npt.NDArray[np.int64]:
    """Return random sample positions, sorted, at least one."""
    count = max(1, int(rng.poisson(per_second * n / rate)))
    return np.sort(rng.integers(n, size=count))


def _white(n: int, rate: int, rng: np.random.Generator) -> _Signal:
    return _coloured(n, rng, 0.0)


def _pink(n: int, rate: int, rng: np.random.Generator) -> _Signal:
    return _coloured(n, rng, 1.0)


def _brown(n: int, rate: int, rng: np.random.Generator) -> _Signal:
    return _coloured(n, rng, 2.0)


def _hum(n: int, rate: int, rng: np.random.Generator) -> _Signal:
    mains_hz = float(rng.choice([50.0, 60.0])) * rng.uniform(0.998, 1.002)
    hum = np.zeros(n)
    for harmonic in range(1, 12):
        hum += rng.uniform(0.2, 1.0) / harmonic * _tone(mains_hz * harmonic, n, rate)
    return hum + 0.02 * rng.standard_normal(n)


def _machinery(n: int, rate: int, rng: np.random.Generator) -> _Signal:
    turns_hz = rng.uniform(8, 40) * _wander(n, rate, rng, 0.5, 0.97, 1.03)
    phase = np.cumsum(turns_hz) / rate
    stroke = np.exp(-8 * (phase % 1.0))
    body = _band(rng.standard_normal(n), rng.uniform(80, 300), rng.uniform(1_500, 5_000), rate)
    gears = sum(
        rng.uniform(0.05, 0.3) * np.sin(2 * np.pi * k * phase + rng.uniform(0, 6.3)) for k in (1, 2, 3, 7, 12, 19)
    )
    return body * (0.3 + stroke) + gears


def _clatter(n: int, rate: int, rng: np.random.Generator) -> _Signal:
    moments = _moments(n, rate, rng, rng.uniform(1.5, 6))
    return _rings(n, rate, rng, moments, 600, 7_000) + 0.003 * _pink(n, rate, rng)


def _wind(n: int, rate: int, rng: np.random.Generator) -> _Signal:
    gusts = _wander(n, rate, rng, rng.uniform(0.5, 1.5), 0.05, 1.0) ** 2
    whistle = _band(rng.standard_normal(n), 300, rng.uniform(600, 1_200), rate)
    rumble = _coloured(n, rng, 1.7)
    wind: _Signal = gusts * (rumble / rumble.std() + 0.3 * gusts * whistle / whistle.std())
    return wind


def _rain(n: int, rate: int, rng: np.random.Generator) -> _Signal:
    hiss = _band(rng.standard_normal(n), 800, 9_000, rate)
    drops = np.zeros(n)
    moments = _moments(n, rate, rng, rng.uniform(60, 250))
    drops[moments] = rng.exponential(1.0, size=len(moments)) * rng.choice([-1.0, 1.0], size=len(moments))
    splash = _band(drops, rng.uniform(800, 1_500), rng.uniform(4_000, 8_000), rate)
    rain: _Signal = 0.25 * hiss / hiss.std() + splash / splash.std()
    return rain


def _keyboard(n: int, rate: int, rng: np.random.Generator) -> _Signal:
    gaps = rng.gamma(3.0, rng.uniform(0.03, 0.07), size=int(n / rate * 14) + 1)
    presses = (np.cumsum(gaps) * rate).astype(np.int64)
    # Each press is followed by the release of the key.
    strokes = np.concatenate([presses, presses + (rng.uniform(0.05, 0.1, size=len(presses)) * rate).astype(int)])
    x = _rings(n, rate, rng, strokes[strokes < n], 1_500, 6_000)
    return x + 0.002 * _pink(n, rate, rng)


def _siren(n: int, rate: int, rng: np.random.Generator) -> _Signal:
    import scipy.signal

    t = np.arange(n) / rate
    low_hz, high_hz = rng.uniform(400, 800), rng.uniform(1_000, 1_800)
    swing = (1 + scipy.signal.sawtooth(2 * np.pi * rng.uniform(0.2, 3.0) * t, width=rng.uniform(0.2, 0.8))) / 2
    if rng.random() < 0.4:
        swing = np.round(swing)  # two tones alternate
    frequency = low_hz + (high_hz - low_hz) * swing
    return _tone(frequency, n, rate) + 0.4 * _tone(3 * frequency, n, rate) * (0.45 * rate > 3 * high_hz)


def _alarm(n: int, rate: int, rng: np.random.Generator) -> _Signal:
    t = np.arange(n) / rate
    on = (t * rng.uniform(1.5, 5.0)) % 1.0 < rng.uniform(0.3, 0.7)
    pitch_hz = rng.uniform(900, 3_200)
    return on * (_tone(pitch_hz, n, rate) + 0.3 * _tone(2 * pitch_hz, n, rate)) + 0.003 * _white(n, rate, rng)


def _music(n: int, rate: int, rng: np.random.Generator) -> _Signal:
    x = np.zeros(n)
    root_hz = 110 * 2 ** (rng.integers(0, 12) / 12)
    scale = np.array([0, 2, 4, 7, 9]) if rng.random() < 0.5 else np.array([0, 3, 5, 7, 10])
    beat = int(rate * rng.uniform(0.18, 0.45))
    for start in range(0, n, beat):
        for _ in range(int(rng.integers(1, 4))):
            length = min(n - start, beat * int(rng.integers(1, 5)))
            t = np.arange(length) / rate
            pitch_hz = root_hz * 2 ** ((rng.choice(scale) + 12 * rng.integers(0, 3)) / 12)
            # Partials above the Nyquist frequency would alias.
            partials = [k for k in range(1, 7) if k * pitch_hz < 0.45 * rate]
            note = sum(np.sin(2 * np.pi * k * pitch_hz * t) / k ** rng.uniform(1.0, 2.0) for k in partials)
            attack = np.minimum(1.0, t / 0.01)
            x[start : start + length] += rng.uniform(0.3, 1.0) * note * attack * np.exp(-t / rng.uniform(0.1, 0.8))
    return x


_MAKERS: Mapping[str, _Maker] = {
    "alarm": _alarm,
    "brown": _brown,
    "clatter": _clatter,
    "hum": _hum,
    "keyboard": _keyboard,
    "machinery": _machinery,
    "music": _music,
    "pink": _pink,
    "rain": _rain,
    "siren": _siren,
    "white": _white,
    "wind": _wind,
}

KINDS: tuple[str, ...] = tuple(sorted([*_MAKERS, "babble"]))
"""Kinds of noise that `make_noise` can make."""


def _babble(n: int, rng: np.random.Generator, speech: Sequence[Audio]) -> _Signal:
    """Mix talkers, each of which repeats its sentences from a random place on."""
    x = np.zeros(n)
    for voice in speech:
        looped = np.resize(voice.astype(np.float64), n)
        x += rng.uniform(0.4, 1.0) * np.roll(looped, int(rng.integers(n))) / (voice.std() + 1e-9)
    return x


def make_noise(
    kind: str, seconds: float, sample_rate: int, rng: np.random.Generator, speech: Sequence[Audio] = ()
) -> Audio:
    """Make noise of one kind.

    Args:
        kind: One of `KINDS`.
        seconds: Length in seconds.
        sample_rate: In Hz; 8,000 or more.
        rng: Generator of all random choices.
        speech: Voices at `sample_rate`; only "babble" needs them.

    Returns:
        Samples of shape [N] with peak `PEAK`.

    Raises:
        ValueError: If the kind is unknown, or babble is asked for without voices.
    """
    n = round(seconds * sample_rate)
    if kind == "babble":
        if not speech:
            raise ValueError("babble is made of speech, and none was given")
        x = _babble(n, rng, speech)
    elif kind in _MAKERS:
        x = _MAKERS[kind](n, sample_rate, rng)
    else:
        raise ValueError(f"no noise of kind {kind!r}; there are {', '.join(KINDS)}")
    loud: Audio = (PEAK * x / np.abs(x).max()).astype(np.float32)
    return loud
