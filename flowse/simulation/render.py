"""From a recipe and its recordings to a noisy and a clean waveform: arithmetic only, nothing is drawn."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32
from scipy.fft import irfft, next_fast_len, rfft

from flowse.audio.waveform import active_level_dbfs, level_dbfs
from flowse.refusal import Refusal
from flowse.simulation.convolution import convolve
from flowse.simulation.effects import apply_effects
from flowse.simulation.recipe import Recipe
from flowse.simulation.rooms import Rir, early_part

PEAK = 0.99
"""Largest magnitude that a rendered waveform may have."""
_CROSSFADE_S = 0.05
_LAG_EXCERPT_S = 0.5
_LAG_REACH = 64
_SNR_TOLERANCE_DB = 0.1
_LEVEL_TOLERANCE_DB = 0.1
_CODEC_LAG = 2
"""Samples by which codecs may shift what they decode; their filters are not exactly symmetric."""


@dataclass(frozen=True, kw_only=True)
class Checks:
    """What a rendered mixture was measured to be, right where it was made.

    Attributes:
        snr_db: Active speech as heard over active interference (noises and competitor together).
        noise_snrs_db: The same for each noise alone.
        level_dbfs: RMS level of the noisy waveform.
        clean_level_dbfs: Active level of the clean waveform.
        peak: Largest magnitude of both waveforms.
        guard_db: Gain that the clipping guard took from both; 0 if it had nothing to do.
        lag: Samples by which the noisy waveform's speech comes after the clean one.
        samples: Length of both.
    """

    snr_db: float
    noise_snrs_db: tuple[float, ...]
    level_dbfs: float
    clean_level_dbfs: float
    peak: float
    guard_db: float
    lag: int
    samples: int


@dataclass(frozen=True)
class Rendered:
    """A finished mixture.

    Attributes:
        noisy: What the model hears.
        clean: What it should make of it.
        rest: All that is to be removed; without effects, noisy is clean + rest, to the bit.
        checks: Measured on these.
    """

    noisy: Float32[np.ndarray, " N"]
    clean: Float32[np.ndarray, " N"]
    rest: Float32[np.ndarray, " N"]
    checks: Checks


def hear(samples: Float32[np.ndarray, " N"], rir: Rir) -> Float32[np.ndarray, " N"]:
    """Convolve with a room, direct path at lag 0: what is said at sample n is first heard at sample n."""
    heard = convolve(samples, rir.samples)[rir.delay : rir.delay + len(samples)]
    return np.asarray(heard, np.float32)


def surround(samples: Float32[np.ndarray, " N"], rir: Rir) -> Float32[np.ndarray, " N"]:
    """Convolve with a room circularly: the end's tail sounds at the start, as if all had gone on before."""
    whole = convolve(samples, rir.samples)
    turns = -(-len(whole) // len(samples))
    whole = np.pad(whole, (0, turns * len(samples) - len(whole)))
    return np.asarray(whole.reshape(turns, len(samples)).sum(axis=0), np.float32)


def stretch(noise: Float32[np.ndarray, " M"], start: int, length: int, rate: int) -> Float32[np.ndarray, " N"]:
    """Take `length` samples of a noise from `start` on; a short noise goes round with 50-ms crossfades.

    Where the noise is all but silent there (30 dB below its mean power), its loudest place is taken instead.

    Raises:
        Refusal: The noise is silent altogether.
    """
    power = _power(noise)
    if not power > 0:
        raise Refusal("silent_noise", "the noise, or the part of it that was read, is silent")
    taken = _take(noise, start, length, rate)
    if _power(taken) > 1e-3 * power:
        return taken
    frame = max(1, round(0.02 * rate))
    loudness = np.add.reduceat(np.square(noise, dtype=np.float64), np.arange(0, len(noise), frame))
    loudest = int(np.argmax(loudness)) * frame
    return _take(noise, max(0, min(loudest - frame, len(noise) - length)), length, rate)


def _power(samples: Float32[np.ndarray, " N"]) -> float:
    """Mean square; not by BLAS, whose sums depend on its number of threads."""
    return float(np.einsum("i,i->", samples, samples)) / max(1, len(samples))


def _take(noise: Float32[np.ndarray, " M"], start: int, length: int, rate: int) -> Float32[np.ndarray, " N"]:
    if start + length <= len(noise):
        return noise[start : start + length]
    fade = min(round(_CROSSFADE_S * rate), len(noise) // 4)
    period = len(noise) - fade
    loop = noise[:period].copy()
    if fade:
        # Equal power, not equal amplitude: the two ends are not correlated.
        ramp = np.sqrt(np.linspace(0, 1, fade, endpoint=False, dtype=np.float32))
        loop[:fade] = loop[:fade] * ramp + noise[period:] * ramp[::-1]
    return np.resize(np.roll(loop, -(start % period)), length)


def lag_of(
    reference: Float32[np.ndarray, " N"], later: Float32[np.ndarray, " N"], rate: int, reach: int = _LAG_REACH
) -> int:
    """Return how many samples `later` comes after `reference`, within ±`reach`.

    The place of the largest correlation by phase alone (Knapp and Carter, 1976: PHAT), over the loudest half second.
    Plain correlation of speech is broad, and a room's tail moves its top by a sample or two.
    """
    length = min(round(_LAG_EXCERPT_S * rate), len(reference))
    whole = reference[: len(reference) // length * length].reshape(-1, length)
    begin = int(np.argmax(np.einsum("ij,ij->i", whole, whole))) * length
    size = next_fast_len(length + reach, real=True)
    first, second = (rfft(samples[begin : begin + length], size) for samples in (reference, later))
    cross = second * np.conj(first)
    strength = np.abs(cross)
    # What is all but empty (above a band limit) has no phase worth listening to.
    phase = np.where(strength > 1e-6 * strength.max(), cross / np.maximum(strength, 1e-30), 0)
    correlation = irfft(phase, size)
    return int(np.argmax(np.concatenate((correlation[-reach:], correlation[: reach + 1])))) - reach


def _target(
    recipe: Recipe,
    speech: Float32[np.ndarray, " N"],
    rir: Rir | None,
    heard: Float32[np.ndarray, " N"],
    rate: int,
) -> Float32[np.ndarray, " N"]:
    if rir is None or recipe.target == "dry":
        return speech
    if recipe.target == "reverberant":
        return heard
    return hear(speech, early_part(rir, recipe.early_s, rate))


def _at_level(samples: Float32[np.ndarray, " N"], level_db: float, rate: int, what: str) -> Float32[np.ndarray, " N"]:
    """Scale to an active level, in dBFS."""
    present = active_level_dbfs(samples, rate)
    if not math.isfinite(present):
        raise Refusal("silent_noise", f"{what} is silent as heard")
    return samples * np.float32(10 ** ((level_db - present) / 20))


def _interference(
    recipe: Recipe,
    speech_db: float,
    length: int,
    noises: Sequence[Float32[np.ndarray, " _"]],
    starts: Sequence[int],
    competitor: Float32[np.ndarray, " _"] | None,
    rirs: Mapping[int, Rir],
    rate: int,
) -> tuple[Float32[np.ndarray, " N"], tuple[float, ...]]:
    """Return all that is not the speaker, as heard, and the signal-to-noise ratio of each noise in it."""
    parts = []
    for noise, start, source, snr_db, name in zip(
        noises, starts, recipe.noise_sources, recipe.noise_snrs_db, recipe.noise_ids, strict=True
    ):
        part = stretch(noise, start, length, rate)
        part = part if source < 0 else surround(part, rirs[source])
        parts.append(_at_level(part, speech_db - snr_db, rate, name))
    snrs_db = tuple(speech_db - active_level_dbfs(part, rate) for part in parts)
    if competitor is not None:
        other = np.pad(competitor[:length], (0, max(0, length - len(competitor))))
        other = other if recipe.competitor_source < 0 else hear(other, rirs[recipe.competitor_source])
        parts.append(_at_level(other, speech_db - recipe.competitor_snr_db, rate, recipe.competitor_id))
    return np.asarray(np.sum(parts, axis=0), np.float32), snrs_db


def render(
    recipe: Recipe,
    speech: Float32[np.ndarray, " N"],
    noises: Sequence[Float32[np.ndarray, " _"]],
    rirs: Mapping[int, Rir],
    rate: int,
    *,
    noise_starts: Sequence[int] | None = None,
    competitor: Float32[np.ndarray, " _"] | None = None,
) -> Rendered:
    """Make a mixture.

    Args:
        recipe: What to make.
        speech: The utterance from `recipe.crop_s` on, `recipe.duration_s` long.
        noises: The recordings `recipe.noise_ids`, whole.
        rirs: Impulse responses of `recipe.room_id`, by source.
        rate: Of everything, in Hz.
        noise_starts: First sample to use of each noise, where not the whole recording is given; otherwise the
            recipe's offsets are used.
        competitor: The recording `recipe.competitor_id`, from its beginning.

    Raises:
        Refusal: Speech or a noise is silent, or the product is not what the recipe asked for.
    """
    rir = rirs[recipe.speech_source] if recipe.speech_source >= 0 else None
    heard = speech if rir is None else hear(speech, rir)
    speech_db = active_level_dbfs(heard, rate) if len(heard) else -math.inf
    if not math.isfinite(speech_db):
        raise Refusal("silent", f"{recipe.utt_id}: the speech is silent from {recipe.crop_s:.2f} s on")
    clean = _target(recipe, speech, rir, heard, rate)
    starts = noise_starts or [round(offset_s * rate) for offset_s in recipe.noise_offsets_s]
    noise, noise_snrs_db = _interference(recipe, speech_db, len(speech), noises, starts, competitor, rirs, rate)
    # Reverberation that is not to be kept is interference like any other.
    rest = noise if clean is heard else noise + (heard - clean)
    mixed = clean + rest
    level = 10 ** ((recipe.level_dbfs - level_dbfs(mixed)) / 20)
    guard = min(1.0, PEAK / (level * _peak(mixed, clean)))
    clean, rest = np.float32(level * guard) * clean, np.float32(level * guard) * rest
    mixed = clean + rest
    noisy = mixed
    if recipe.has_effects:
        noisy = apply_effects(mixed, recipe, rate)
        again = min(1.0, PEAK / _peak(noisy, clean))
        clean, rest, noisy = np.float32(again) * clean, np.float32(again) * rest, np.float32(again) * noisy
        guard *= again
    lag = 0 if rir is None or recipe.target == "reverberant" else lag_of(clean, heard, rate)
    if recipe.has_effects:
        lag += lag_of(mixed, noisy, rate)
    alone = len(noises) == 1 and competitor is None
    checks = Checks(
        snr_db=noise_snrs_db[0] if alone else speech_db - active_level_dbfs(noise, rate),
        noise_snrs_db=noise_snrs_db,
        level_dbfs=level_dbfs(noisy),
        clean_level_dbfs=active_level_dbfs(clean, rate),
        peak=_peak(noisy, clean),
        guard_db=-20 * math.log10(guard),
        lag=lag,
        samples=len(noisy),
    )
    _refuse(recipe, checks, len(speech))
    return Rendered(noisy, clean, rest, checks)


def _peak(*waveforms: Float32[np.ndarray, " N"]) -> float:
    return max(max(float(samples.max()), -float(samples.min())) for samples in waveforms)


def _refuse(recipe: Recipe, checks: Checks, length: int) -> None:
    """Raise where the product is not what the recipe asked for: better no example than a wrong one."""
    problems = []
    for wanted, got in zip(recipe.noise_snrs_db, checks.noise_snrs_db, strict=True):
        # Written so that NaN is a problem too.
        if not abs(wanted - got) <= _SNR_TOLERANCE_DB:
            problems.append(("wrong_snr", f"signal-to-noise ratio {got:.2f} dB, asked for {wanted:.2f}"))
    exact_level = not recipe.has_effects and checks.guard_db == 0
    if not (abs(checks.level_dbfs - recipe.level_dbfs) <= _LEVEL_TOLERANCE_DB if exact_level else True):
        problems.append(("wrong_level", f"level {checks.level_dbfs:.2f} dBFS, asked for {recipe.level_dbfs:.2f}"))
    if not checks.peak <= 1 or not math.isfinite(checks.level_dbfs):
        problems.append(("wrong_peak", f"peak {checks.peak:.3f}, level {checks.level_dbfs:.2f} dBFS"))
    if checks.samples != length:
        problems.append(("wrong_length", f"{checks.samples} samples, asked for {length}"))
    # Strong early reflections may outweigh the direct path, which is all that a dry target has.
    if recipe.target != "dry" and abs(checks.lag) > (_CODEC_LAG if recipe.has_effects else 0):
        problems.append(("misaligned", f"noisy comes {checks.lag} samples after clean"))
    if problems:
        reason, detail = problems[0]
        raise Refusal.failed(reason, f"{recipe.key}: {detail}")
