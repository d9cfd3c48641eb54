"""Augmentation of log-mels by changes that occur in recordings: speed, voice, spectral colour, room, noise and gaps.

All functions work on log10 mel power [T, 80] as `clips.log_mel` computes it. Powers of independent sounds add up, so
noise and reverberation are nearly what they would be on the waveform, at a hundredth of the cost.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import scipy.ndimage
import scipy.signal

Mel = npt.NDArray[np.float32]

BANDS = 80
FLOOR = -10.0
"""log10 of the mel power of digital silence in Whisper."""

FRAMES_PER_SECOND = 100


def interpolate(mel: Mel, positions: npt.NDArray[np.floating], axis: int) -> Mel:
    """Interpolate `mel` linearly at fractional `positions` along `axis`; positions outside give the edge."""
    low = np.clip(positions.astype(np.int64), 0, mel.shape[axis] - 1)
    high = np.minimum(low + 1, mel.shape[axis] - 1)
    weight = np.clip(positions - low, 0, 1).astype(np.float32)
    weight = weight[:, None] if axis == 0 else weight[None, :]
    read: Mel = mel.take(low, axis) * (1 - weight) + mel.take(high, axis) * weight
    return read


def smooth_curve(points: int, knots: int, spread: float, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Return a curve of `points` values through `knots` normally distributed values of standard deviation `spread`."""
    return np.interp(np.linspace(0, knots - 1, points), np.arange(knots), rng.normal(0, spread, size=knots))


def warp(mel: Mel, rng: np.random.Generator, longest: int) -> Mel:
    """Change the speed unevenly (about ±20 %) and the length of the vocal tract (about ±12 %).

    Args:
        mel: Log-mel [T, 80].
        rng: Random generator.
        longest: Largest number of frames of the result.
    """
    knots = rng.uniform(0.75, 1.25, size=2 + len(mel) // 40)
    speed = np.interp(np.linspace(0, 1, len(mel)), np.linspace(0, 1, len(knots)), knots)
    reached = np.cumsum(speed)
    frames = min(longest, max(8, round(len(mel) * rng.uniform(0.87, 1.15))))
    positions = np.interp(np.linspace(reached[0], reached[-1], frames), reached, np.arange(len(mel)))
    return interpolate(interpolate(mel, positions, axis=0), np.arange(BANDS) * rng.uniform(0.88, 1.12), axis=1)


def roughen(mel: Mel, rng: np.random.Generator) -> Mel:
    """Roughen the too regular spectra of a synthesiser: change contrast, spectral ripple, and gains over time."""
    mean = mel.mean(axis=0)
    rough = mean + rng.uniform(0.8, 1.2) * (mel - mean)
    rough = rough + smooth_curve(BANDS, 20, rng.uniform(0, 0.25), rng)
    grid = rng.normal(0, rng.uniform(0, 0.25), size=(2 + len(mel) // 10, 12)).astype(np.float32)
    gains = interpolate(grid, np.linspace(0, len(grid) - 1, len(mel)), axis=0)
    roughened: Mel = (rough + interpolate(gains, np.linspace(0, 11, BANDS), axis=1)).astype(np.float32)
    return roughened


def graft_fine_structure(mel: Mel, donor: Mel, rng: np.random.Generator) -> Mel:
    """Keep the envelope of `mel` and add the fine structure of `donor` [T, 80]: harmonics, breath, unevenness."""
    size = (int(rng.integers(3, 8)), int(rng.integers(3, 9)))
    envelope, donor_envelope = (scipy.ndimage.uniform_filter(x, size) for x in (mel, donor))
    share = rng.uniform(0.5, 1.0)
    grafted: Mel = envelope + (1 - share) * (mel - envelope) + share * np.clip(donor - donor_envelope, -1.0, 1.0)
    return grafted.astype(np.float32)


def _mean_of_loud(mel: Mel) -> npt.NDArray[np.float32]:
    levels = mel.mean(axis=1)
    mean: npt.NDArray[np.float32] = mel[levels >= np.median(levels)].mean(axis=0)
    return mean


def equalise(mel: Mel, rng: np.random.Generator, reference: Mel | None) -> Mel:
    """Filter `mel`: by a smooth curve, partly towards the mean spectrum of `reference`, sometimes with a low-pass."""
    curve = smooth_curve(BANDS, 6, 0.35, rng)
    if reference is not None:
        curve = curve + rng.uniform(0.3, 1.0) * (_mean_of_loud(reference) - _mean_of_loud(mel))
    if rng.random() < 0.15:
        curve = curve - np.where(np.arange(BANDS) > rng.integers(45, 75), rng.uniform(1.5, 4.0), 0.0)
    equalised: Mel = np.maximum(mel + curve, FLOOR).astype(np.float32)
    return equalised


def reverberate(mel: Mel, rng: np.random.Generator) -> Mel:
    """Add an exponential tail along time that decays by 60 dB in 0.15 to 0.8 s."""
    decay = 10 ** (-6 / (rng.uniform(0.15, 0.8) * FRAMES_PER_SECOND))
    power = 10.0**mel
    tail = scipy.signal.lfilter([0.0, 0.0, (1 - decay) * rng.uniform(0.1, 0.9)], [1.0, -decay], power, axis=0)
    wet: Mel = np.log10(power + tail).astype(np.float32)
    return wet


def coloured_noise(frames: int, rng: np.random.Generator) -> Mel:
    """Return stationary coloured noise, whose mel powers fluctuate like sums of squares."""
    curve = smooth_curve(BANDS, 5, 0.7, rng) - rng.uniform(0, 1.5) * np.arange(BANDS) / BANDS
    noise: Mel = (curve + np.log10(rng.gamma(3.0, 1 / 3.0, size=(frames, BANDS)) + 1e-6)).astype(np.float32)
    return noise


def loud_level(mel: Mel) -> float:
    """Return log10 of the mean power of the louder half of the frames."""
    power = np.sort((10.0**mel).mean(axis=1))
    return float(np.log10(power[len(power) // 2 :].mean() + 1e-12))


def loop_to_length(mel: Mel, frames: int, rng: np.random.Generator) -> Mel:
    """Repeat or cut `mel` to `frames` frames."""
    if len(mel) < frames:
        mel = np.tile(mel, (frames // len(mel) + 1, 1))
    start = int(rng.integers(len(mel) - frames + 1))
    return mel[start : start + frames]


def add_noise(mel: Mel, noise: Mel, snr_db: float) -> Mel:
    """Add the power of `noise` [T, 80]; `snr_db` is the ratio of the loud levels (see `loud_level`), in dB."""
    gain = loud_level(mel) - loud_level(noise) - snr_db / 10
    noisy: Mel = np.log10(10.0**mel + 10.0 ** (np.maximum(noise, FLOOR) + gain)).astype(np.float32)
    return noisy


def mask_bands_and_frames(mel: Mel, rng: np.random.Generator) -> Mel:
    """Replace a few bands and a few stretches of time by the mean (SpecAugment)."""
    mel, mean = mel.copy(), float(mel.mean())
    for _ in range(int(rng.integers(0, 3))):
        low = int(rng.integers(BANDS))
        mel[:, low : low + int(rng.integers(1, 13))] = mean
    for _ in range(int(rng.integers(0, 1 + len(mel) // 80))):
        start = int(rng.integers(len(mel)))
        mel[start : start + int(rng.integers(1, 21))] = mean
    return mel


def normalise(mel: Mel) -> Mel:
    """Limit the range to 80 dB and scale, like the end of Whisper's `log_mel_spectrogram`."""
    scaled: Mel = (np.maximum(mel, mel.max() - 8.0) + 4.0) / 4.0
    return scaled
