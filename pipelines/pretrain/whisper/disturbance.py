"""Disturbances of a log-mel that a recording could have: speed, voice, colour, room, noise and gaps.

All work on log10 mel power [T, 80] as `clips.log_mel` gives it. Powers of independent sounds add, so noise
and reverberation are (nearly) what they would be on the waveform, at a hundredth of its cost.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import scipy.ndimage
import scipy.signal

Mel = npt.NDArray[np.float32]

BANDS = 80
FLOOR = -10.0
"""log10 of the power that Whisper gives to digital silence."""

FRAMES_PER_SECOND = 100


def interpolate(mel: Mel, positions: npt.NDArray[np.floating], axis: int) -> Mel:
    """Read `mel` at fractional `positions` of `axis`; positions outside read the edge."""
    low = np.clip(positions.astype(np.int64), 0, mel.shape[axis] - 1)
    high = np.minimum(low + 1, mel.shape[axis] - 1)
    weight = np.clip(positions - low, 0, 1).astype(np.float32)
    weight = weight[:, None] if axis == 0 else weight[None, :]
    read: Mel = mel.take(low, axis) * (1 - weight) + mel.take(high, axis) * weight
    return read


def smooth_curve(points: int, knots: int, spread: float, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """A curve of `points` through `knots` normal values of standard deviation `spread`."""
    return np.interp(np.linspace(0, knots - 1, points), np.arange(knots), rng.normal(0, spread, size=knots))


def warp(mel: Mel, rng: np.random.Generator, longest: int) -> Mel:
    """Change the speed unevenly (about ±20 %) and the length of the vocal tract (about ±12 %).

    Args:
        mel: Log-mel [T, 80].
        rng: Source of the choices.
        longest: The result has no more frames than this.
    """
    knots = rng.uniform(0.75, 1.25, size=2 + len(mel) // 40)
    speed = np.interp(np.linspace(0, 1, len(mel)), np.linspace(0, 1, len(knots)), knots)
    reached = np.cumsum(speed)
    frames = min(longest, max(8, round(len(mel) * rng.uniform(0.87, 1.15))))
    positions = np.interp(np.linspace(reached[0], reached[-1], frames), reached, np.arange(len(mel)))
    return interpolate(interpolate(mel, positions, axis=0), np.arange(BANDS) * rng.uniform(0.88, 1.12), axis=1)


def texture(mel: Mel, rng: np.random.Generator) -> Mel:
    """Roughen the too regular spectra of a synthesiser: contrast, a voice's own ripple, and change over time."""
    mean = mel.mean(axis=0)
    rough = mean + rng.uniform(0.8, 1.2) * (mel - mean)
    rough = rough + smooth_curve(BANDS, 20, rng.uniform(0, 0.25), rng)
    grid = rng.normal(0, rng.uniform(0, 0.25), size=(2 + len(mel) // 10, 12)).astype(np.float32)
    change = interpolate(grid, np.linspace(0, len(grid) - 1, len(mel)), axis=0)
    textured: Mel = (rough + interpolate(change, np.linspace(0, 11, BANDS), axis=1)).astype(np.float32)
    return textured


def graft(mel: Mel, donor: Mel, rng: np.random.Generator) -> Mel:
    """Keep the outline of `mel` and take the fine structure of `donor` [T, 80]: harmonics, breath, unevenness."""
    size = (int(rng.integers(3, 8)), int(rng.integers(3, 9)))
    outline, donors = (scipy.ndimage.uniform_filter(x, size) for x in (mel, donor))
    share = rng.uniform(0.5, 1.0)
    grafted: Mel = outline + (1 - share) * (mel - outline) + share * np.clip(donor - donors, -1.0, 1.0)
    return grafted.astype(np.float32)


def _mean_of_loud(mel: Mel) -> npt.NDArray[np.float32]:
    level = mel.mean(axis=1)
    mean: npt.NDArray[np.float32] = mel[level >= np.median(level)].mean(axis=0)
    return mean


def colour(mel: Mel, rng: np.random.Generator, model: Mel | None) -> Mel:
    """Filter: a smooth curve, a part of the way to the mean spectrum of `model`, at times a narrow band."""
    curve = smooth_curve(BANDS, 6, 0.35, rng)
    if model is not None:
        curve = curve + rng.uniform(0.3, 1.0) * (_mean_of_loud(model) - _mean_of_loud(mel))
    if rng.random() < 0.15:
        curve = curve - np.where(np.arange(BANDS) > rng.integers(45, 75), rng.uniform(1.5, 4.0), 0.0)
    coloured: Mel = np.maximum(mel + curve, FLOOR).astype(np.float32)
    return coloured


def reverberate(mel: Mel, rng: np.random.Generator) -> Mel:
    """Smear the power along time with an exponential tail of 0.15 to 0.8 s (60 dB)."""
    decay = 10 ** (-6 / (rng.uniform(0.15, 0.8) * FRAMES_PER_SECOND))
    power = 10.0**mel
    tail = scipy.signal.lfilter([0.0, 0.0, (1 - decay) * rng.uniform(0.1, 0.9)], [1.0, -decay], power, axis=0)
    wet: Mel = np.log10(power + tail).astype(np.float32)
    return wet


def hiss(frames: int, rng: np.random.Generator) -> Mel:
    """Steady coloured noise: its mel powers fluctuate as sums of squares do."""
    curve = smooth_curve(BANDS, 5, 0.7, rng) - rng.uniform(0, 1.5) * np.arange(BANDS) / BANDS
    noise: Mel = (curve + np.log10(rng.gamma(3.0, 1 / 3.0, size=(frames, BANDS)) + 1e-6)).astype(np.float32)
    return noise


def level(mel: Mel) -> float:
    """log10 of the mean power of the louder half of the frames."""
    power = np.sort((10.0**mel).mean(axis=1))
    return float(np.log10(power[len(power) // 2 :].mean() + 1e-12))


def fit(mel: Mel, frames: int, rng: np.random.Generator) -> Mel:
    """Repeat or cut `mel` to `frames`."""
    if len(mel) < frames:
        mel = np.tile(mel, (frames // len(mel) + 1, 1))
    start = int(rng.integers(len(mel) - frames + 1))
    return mel[start : start + frames]


def add(mel: Mel, noise: Mel, snr_db: float) -> Mel:
    """Add the power of `noise` [T, 80] at a signal-to-noise ratio of the loud halves, in dB."""
    gain = level(mel) - level(noise) - snr_db / 10
    noisy: Mel = np.log10(10.0**mel + 10.0 ** (np.maximum(noise, FLOOR) + gain)).astype(np.float32)
    return noisy


def mask(mel: Mel, rng: np.random.Generator) -> Mel:
    """Hide a few bands and moments behind the mean (SpecAugment)."""
    mel, mean = mel.copy(), float(mel.mean())
    for _ in range(int(rng.integers(0, 3))):
        low = int(rng.integers(BANDS))
        mel[:, low : low + int(rng.integers(1, 13))] = mean
    for _ in range(int(rng.integers(0, 1 + len(mel) // 80))):
        start = int(rng.integers(len(mel)))
        mel[start : start + int(rng.integers(1, 21))] = mean
    return mel


def normalise(mel: Mel) -> Mel:
    """Limit the range to 80 dB and scale, as Whisper's `log_mel_spectrogram` ends."""
    scaled: Mel = (np.maximum(mel, mel.max() - 8.0) + 4.0) / 4.0
    return scaled
