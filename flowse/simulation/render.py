"""Makes the noisy and the clean waveform of a recipe from its recordings; nothing random happens here."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32
from scipy.fft import irfft, next_fast_len, rfft

from flowse.audio.level import active_level_dbfs, level_dbfs
from flowse.audio.offset import without_offset
from flowse.data.shards import NO_SPEECH_DB
from flowse.refusal import Refusal
from flowse.simulation.convolution import convolve
from flowse.simulation.effects import apply_effects
from flowse.simulation.recipe import Recipe
from flowse.simulation.rirs import Rir, early_part

PEAK = 0.99
"""Largest magnitude that a rendered waveform may have."""
_CROSSFADE_S = 0.05
_LAG_EXCERPT_S = 0.5
_LAG_REACH = 64
_SNR_TOLERANCE_DB = 0.1
_LEVEL_TOLERANCE_DB = 0.1
_ABSENT_SPEECH_DBFS = -26.0
"""Level of the speech that a mixture of noise alone would have had; its noises keep their levels to each other."""
_CODEC_LAG = 2
"""Samples by which a codec may delay or advance the waveform: its filters are not exactly symmetric."""


@dataclass(frozen=True, kw_only=True)
class Checks:
    """What was measured on a mixture right after it was rendered.

    Attributes:
        snr_db: Active level of the speech over that of all interference (noises and other speaker), at the microphone;
            `NO_SPEECH_DB` without speech.
        noise_snrs_db: Active level of the speech, or of that which is not there, over that of each noise.
        level_dbfs: RMS level of the noisy waveform.
        clean_level_dbfs: Active level of the clean waveform; `NO_SPEECH_DB` for silence.
        peak: Largest magnitude of both waveforms.
        guard_db: By how many dB both were attenuated to keep peaks below `PEAK`; 0 if they were not.
        lag: Samples by which the speech in the noisy waveform comes after the clean waveform; 0 without speech.
        samples: Number of samples of each waveform.
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
        noisy: Input of the model.
        clean: Target of the model.
        rest: All that the model should remove; without effects, noisy is exactly clean + rest.
        checks: What was measured on these waveforms.
    """

    noisy: Float32[np.ndarray, " N"]
    clean: Float32[np.ndarray, " N"]
    rest: Float32[np.ndarray, " N"]
    checks: Checks


def convolve_rir(samples: Float32[np.ndarray, " N"], rir: Rir) -> Float32[np.ndarray, " N"]:
    """Convolve with a room's response; the direct path has no delay, and the tail beyond the end is cut."""
    convolved = convolve(samples, rir.samples)[rir.delay : rir.delay + len(samples)]
    return np.asarray(convolved, np.float32)


def convolve_circular(samples: Float32[np.ndarray, " N"], rir: Rir) -> Float32[np.ndarray, " N"]:
    """Convolve circularly with a room's response: the tail of the end falls on the start, so there is no onset."""
    whole = convolve(samples, rir.samples)
    turns = -(-len(whole) // len(samples))
    whole = np.pad(whole, (0, turns * len(samples) - len(whole)))
    return np.asarray(whole.reshape(turns, len(samples)).sum(axis=0), np.float32)


def loop_to_length(noise: Float32[np.ndarray, " M"], start: int, length: int, rate: int) -> Float32[np.ndarray, " N"]:
    """Take `length` samples of a noise from `start` on; a shorter noise is looped with crossfades of 50 ms.

    If that part is nearly silent (30 dB below the noise's mean power), the part with the loudest 20 ms replaces it.

    Args:
        noise: The recording, one channel.
        start: Index of the first sample to take.
        length: Number of samples to return.
        rate: Sample rate in Hz.

    Raises:
        Refusal: All of the noise is silent.
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
    """Return the mean square; BLAS is not used, because its sums depend on its number of threads."""
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


def measure_lag(
    reference: Float32[np.ndarray, " N"], later: Float32[np.ndarray, " N"], rate: int, reach: int = _LAG_REACH
) -> int:
    """Return how many samples `later` comes after `reference`, within ±`reach`.

    The lag is the largest value of the generalised cross-correlation with phase transform (GCC-PHAT; Knapp and Carter,
    1976) over the loudest half second. The peak of plain correlation is broad for speech, and a room's tail moves it by
    a sample or two.

    Args:
        reference: One channel.
        later: One channel of the same length.
        rate: Sample rate in Hz.
        reach: Largest lag that can be found, in samples.
    """
    length = min(round(_LAG_EXCERPT_S * rate), len(reference))
    whole = reference[: len(reference) // length * length].reshape(-1, length)
    begin = int(np.argmax(np.einsum("ij,ij->i", whole, whole))) * length
    size = next_fast_len(length + reach, real=True)
    first, second = (rfft(samples[begin : begin + length], size) for samples in (reference, later))
    cross = second * np.conj(first)
    strength = np.abs(cross)
    # Bins without energy, such as those above a band limit, have only a random phase.
    phase = np.where(strength > 1e-6 * strength.max(), cross / np.maximum(strength, 1e-30), 0)
    correlation = irfft(phase, size)
    return int(np.argmax(np.concatenate((correlation[-reach:], correlation[: reach + 1])))) - reach


def _target(
    recipe: Recipe,
    speech: Float32[np.ndarray, " N"],
    rir: Rir | None,
    reverberant: Float32[np.ndarray, " N"],
    rate: int,
) -> Float32[np.ndarray, " N"]:
    """Return what the recipe's target asks for: silence, or the speech dry, with early reflections, or with all."""
    if recipe.target == "silence":
        return np.zeros_like(speech)
    if rir is None or recipe.target == "dry":
        return speech
    if recipe.target == "reverberant":
        return reverberant
    return convolve_rir(speech, early_part(rir, recipe.early_s, rate))


def _scale_to_active_level(
    samples: Float32[np.ndarray, " N"], level_db: float, rate: int, what: str
) -> Float32[np.ndarray, " N"]:
    """Scale to an active level of `level_db` dBFS.

    Raises:
        Refusal: The samples are silent; `what` names them.
    """
    current_db = active_level_dbfs(samples, rate)
    if not math.isfinite(current_db):
        raise Refusal("silent_noise", f"{what} is silent as heard")
    return samples * np.float32(10 ** ((level_db - current_db) / 20))


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
    """Return the sum of noises and other speaker at the microphone, and the signal-to-noise ratio of each noise."""
    parts = []
    for noise, start, source, snr_db, name in zip(
        noises, starts, recipe.noise_sources, recipe.noise_snrs_db, recipe.noise_ids, strict=True
    ):
        part = loop_to_length(noise, start, length, rate)
        part = part if source < 0 else convolve_circular(part, rirs[source])
        parts.append(_scale_to_active_level(part, speech_db - snr_db, rate, name))
    snrs_db = tuple(speech_db - active_level_dbfs(part, rate) for part in parts)
    if competitor is not None:
        other = np.pad(competitor[:length], (0, max(0, length - len(competitor))))
        other = other if recipe.competitor_source < 0 else convolve_rir(other, rirs[recipe.competitor_source])
        parts.append(_scale_to_active_level(other, speech_db - recipe.competitor_snr_db, rate, recipe.competitor_id))
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
    """Make a mixture. Constant offsets of the recordings are removed: they are nothing that can be heard.

    Args:
        recipe: All choices of the mixture.
        speech: The utterance from `recipe.crop_s` on, `recipe.duration_s` long; as many zeros for a mixture of noise
            alone.
        noises: The whole recordings `recipe.noise_ids`.
        rirs: Impulse responses of `recipe.room_id`, by the number of their source.
        rate: Sample rate of all waveforms in Hz.
        noise_starts: Index of the first sample to use of each noise, if `noises` are only parts of the recordings;
            otherwise the recipe's offsets are used.
        competitor: The recording `recipe.competitor_id`, from its beginning.

    Raises:
        Refusal: The speech or a noise is silent, or the mixture is not what the recipe asks for.
    """
    speech, noises = without_offset(speech), [without_offset(noise) for noise in noises]
    competitor = None if competitor is None else without_offset(competitor)
    rir = rirs[recipe.speech_source] if recipe.speech_source >= 0 else None
    reverberant = speech if rir is None else convolve_rir(speech, rir)
    silent = recipe.target == "silence"
    speech_db = active_level_dbfs(reverberant, rate) if len(reverberant) else -math.inf
    if silent and len(speech):
        speech_db = _ABSENT_SPEECH_DBFS
    if not math.isfinite(speech_db):
        raise Refusal("silent", f"{recipe.utt_id}: the speech is silent from {recipe.crop_s:.2f} s on")
    clean = _target(recipe, speech, rir, reverberant, rate)
    starts = noise_starts or [round(offset_s * rate) for offset_s in recipe.noise_offsets_s]
    noise, noise_snrs_db = _interference(recipe, speech_db, len(speech), noises, starts, competitor, rirs, rate)
    # The part of the reverberation that the target leaves out is to be removed like noise.
    rest = noise if clean is reverberant else noise + (reverberant - clean)
    mixed = clean + rest
    level = 10 ** ((recipe.level_dbfs - level_dbfs(mixed)) / 20)
    guard = min(1.0, PEAK / (level * _peak(mixed, clean)))
    clean, rest = np.float32(level * guard) * clean, np.float32(level * guard) * rest
    mixed = clean + rest
    noisy = mixed
    if recipe.has_effects:
        noisy = apply_effects(mixed, recipe, rate)
        gain = min(1.0, PEAK / _peak(noisy, clean))
        clean, rest, noisy = np.float32(gain) * clean, np.float32(gain) * rest, np.float32(gain) * noisy
        guard *= gain
    lag = 0 if rir is None or recipe.target == "reverberant" else measure_lag(clean, reverberant, rate)
    if recipe.has_effects and not silent:
        lag += measure_lag(mixed, noisy, rate)
    single_noise = len(noises) == 1 and competitor is None
    checks = Checks(
        snr_db=NO_SPEECH_DB
        if silent
        else noise_snrs_db[0]
        if single_noise
        else speech_db - active_level_dbfs(noise, rate),
        noise_snrs_db=noise_snrs_db,
        level_dbfs=level_dbfs(noisy),
        clean_level_dbfs=NO_SPEECH_DB if silent else active_level_dbfs(clean, rate),
        peak=_peak(noisy, clean),
        guard_db=-20 * math.log10(guard),
        lag=lag,
        samples=len(noisy),
    )
    _check_product(recipe, checks, len(speech))
    return Rendered(noisy, clean, rest, checks)


def _peak(*waveforms: Float32[np.ndarray, " N"]) -> float:
    return max(max(float(samples.max()), -float(samples.min())) for samples in waveforms)


def _check_product(recipe: Recipe, checks: Checks, length: int) -> None:
    """Refuse a mixture that is not what its recipe asks for: a wrong example is worse than none.

    Raises:
        Refusal: Level, signal-to-noise ratio, peak, length or lag is wrong.
    """
    problems = []
    for wanted, got in zip(recipe.noise_snrs_db, checks.noise_snrs_db, strict=True):
        # This form of the comparison is true for NaN, too.
        if not abs(wanted - got) <= _SNR_TOLERANCE_DB:
            problems.append(("wrong_snr", f"signal-to-noise ratio {got:.2f} dB, asked for {wanted:.2f}"))
    exact_level = not recipe.has_effects and checks.guard_db == 0
    if not (abs(checks.level_dbfs - recipe.level_dbfs) <= _LEVEL_TOLERANCE_DB if exact_level else True):
        problems.append(("wrong_level", f"level {checks.level_dbfs:.2f} dBFS, asked for {recipe.level_dbfs:.2f}"))
    if not checks.peak <= 1 or not math.isfinite(checks.level_dbfs):
        problems.append(("wrong_peak", f"peak {checks.peak:.3f}, level {checks.level_dbfs:.2f} dBFS"))
    if checks.samples != length:
        problems.append(("wrong_length", f"{checks.samples} samples, asked for {length}"))
    # A dry target has only the direct path, and strong early reflections in the mixture may outweigh it.
    if recipe.target != "dry" and abs(checks.lag) > (_CODEC_LAG if recipe.has_effects else 0):
        problems.append(("misaligned", f"noisy comes {checks.lag} samples after clean"))
    if problems:
        reason, detail = problems[0]
        raise Refusal.failed(reason, f"{recipe.key}: {detail}")
