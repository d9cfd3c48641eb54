"""Room impulse responses (RIRs): simulated in a drawn room or taken from a measurement, trimmed, and measured."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32
from scipy.signal import sosfilt

from flowse.simulation.rooms import BANDS_HZ, SPEED_OF_SOUND, Room

LEAD = 40
"""Samples kept before the direct path: half the length of the simulator's fractional-delay filter."""
STEP = 2.0**-20
"""Responses are rounded to multiples of this, −120 dB below their direct path.

Sines, powers and logarithms have another last bit on other processors. What is rounded is the same on all of them, but
for one response in millions.
"""
_FADE_S = 0.005
_HIGH_PASS_HZ = 10.0


@dataclass(frozen=True)
class Rir:
    """A room impulse response, scaled so that the direct path has gain 1.

    Attributes:
        samples: The response, at the rate of the mixtures.
        delay: Index of the sample at which the direct path arrives.
    """

    samples: Float32[np.ndarray, " N"]
    delay: int


def simulate_room(room: Room, seed: int, sample_rate: int, image_order: int = 3, max_s: float = 2.0) -> list[Rir]:
    """Compute the impulse response from every source to the microphone.

    Early reflections come from image sources up to `image_order`, the rest from ray tracing (pyroomacoustics' hybrid
    simulator; Schröder, 2011), with air absorption.

    Args:
        room: The room as drawn.
        seed: Seed of the ray tracer.
        sample_rate: Sample rate of the responses in Hz.
        image_order: Highest order of the reflections that are computed exactly.
        max_s: Responses are cut after this many seconds, and earlier where they have decayed by 60 dB.

    Returns:
        One response for each of `room.sources_m`.
    """
    import pyroomacoustics as pra  # mixing, which needs only `Rir`, does without the simulator

    # The simulator has one random state for the whole process, and its results depend on its number of threads.
    pra.constants.set("num_threads", 1)
    # Its high-pass filter makes a hundred-fold of the differences between processors: ours comes after the rounding.
    pra.constants.set("rir_hpf_enable", False)
    pra.random.seed(seed)
    material = pra.Material(
        energy_absorption={"coeffs": list(room.absorption), "center_freqs": list(BANDS_HZ)},
        scattering=room.scattering,
    )
    options = {
        "fs": sample_rate,
        "materials": material,
        "max_order": image_order,
        "ray_tracing": True,
        "air_absorption": True,
    }
    if room.shape == "shoebox":
        simulated = pra.ShoeBox([*room.corners_m[2], room.height_m], **options)
    else:
        simulated = pra.Room.from_corners(np.array(room.corners_m).T, **options)
        simulated.extrude(room.height_m, materials=material)
        # The simulator chose the number of rays by the volume before the floor plan had a height.
        simulated.set_ray_tracing()
    simulated.add_microphone(list(room.microphone_m))
    for source in room.sources_m:
        simulated.add_source(list(source))
    simulated.compute_rir()
    rirs = []
    for position, samples in zip(room.sources_m, simulated.rir[0], strict=True):
        distance = math.dist(position, room.microphone_m)
        arrival = round(distance / SPEED_OF_SOUND * sample_rate) + pra.constants.get("frac_delay_length") // 2
        # The simulator's direct path has amplitude 1 / distance.
        response = _without_rumble(_rounded(np.asarray(samples, np.float64) * distance), sample_rate)
        rirs.append(_trim(response, arrival, sample_rate, max_s))
    return rirs


def _rounded(samples: np.ndarray) -> np.ndarray:
    return np.asarray(np.rint(samples / STEP) * STEP)


def _without_rumble(samples: np.ndarray, sample_rate: int) -> np.ndarray:
    """Remove what ray tracing adds below 10 Hz, forwards and backwards, by a Butterworth filter of second order."""
    k = math.tan(math.pi * _HIGH_PASS_HZ / sample_rate)
    norm = 1 + math.sqrt(2) * k + k * k
    exact = (1 / norm, -2 / norm, 1 / norm, 1.0, 2 * (k * k - 1) / norm, (1 - math.sqrt(2) * k + k * k) / norm)
    sections = np.array([[round(value, 12) for value in exact]])
    return np.asarray(sosfilt(sections, sosfilt(sections, samples)[::-1])[::-1])


def measured_rir(samples: Float32[np.ndarray, " N"], sample_rate: int, max_s: float = 2.0) -> Rir:
    """Normalise a measured response: the direct path positive and at gain 1, the time before it and the tail cut.

    The direct path is taken to be the largest peak, and its gain the root of the energy within 1 ms of that peak.

    Args:
        samples: The recorded response, one channel.
        sample_rate: Sample rate of the recording in Hz.
        max_s: The response is cut after this many seconds, and earlier where it has decayed by 60 dB.

    Raises:
        ValueError: The recording is silent or not finite.
    """
    arrival = int(np.argmax(np.abs(samples)))
    near = sample_rate // 1000
    gain = math.sqrt(float(np.sum(samples[max(arrival - near, 0) : arrival + near + 1].astype(np.float64) ** 2)))
    if not gain > 0 or not math.isfinite(gain):
        raise ValueError("the impulse response is silent or not finite")
    return _trim(samples.astype(np.float64) / math.copysign(gain, samples[arrival]), arrival, sample_rate, max_s)


def _trim(samples: np.ndarray, arrival: int, sample_rate: int, max_s: float) -> Rir:
    """Cut the travel time before the direct path, and the tail below −60 dB of the remaining energy."""
    begin = max(arrival - LEAD, 0)
    kept = samples[begin : begin + round(max_s * sample_rate)]
    decay = np.cumsum(kept[::-1] ** 2)[::-1]
    audible = int(np.count_nonzero(decay > decay[0] * 1e-6))
    # Without a ramp the cut would be audible as a click at the end of long decays.
    fade = min(round(_FADE_S * sample_rate), audible)
    kept = kept[:audible].copy()
    kept[audible - fade :] *= np.linspace(1, 0, fade, endpoint=False)
    return Rir(_rounded(kept).astype(np.float32), arrival - begin)


def early_part(rir: Rir, early_s: float, sample_rate: int) -> Rir:
    """Return the direct path and the reflections of the first `early_s` seconds, faded out over 5 ms more."""
    end = min(rir.delay + round(early_s * sample_rate), len(rir.samples))
    fade = min(round(_FADE_S * sample_rate), len(rir.samples) - end)
    kept = rir.samples[: end + fade].copy()
    kept[end:] *= np.linspace(1, 0, fade, endpoint=False, dtype=np.float32)
    return Rir(kept, rir.delay)


def rt60(samples: Float32[np.ndarray, " N"], sample_rate: int) -> float | None:
    """Estimate the reverberation time RT60: T20, from −5 to −25 dB of Schroeder's decay curve (ISO 3382).

    Returns:
        Seconds, to the microsecond; None if the response does not decay that far.
    """
    energy = np.cumsum(samples[::-1].astype(np.float64) ** 2)[::-1]
    if len(energy) == 0 or energy[0] <= 0:
        return None
    decay_db = 10 * np.log10(np.maximum(energy / energy[0], 1e-12))
    begin, end = int(np.argmax(decay_db <= -5)), int(np.argmax(decay_db <= -25))
    if end - begin < 2:
        return None
    # Least squares by plain sums: np.polyfit calls LAPACK, whose last bits depend on the processor.
    time_s = (np.arange(end - begin) - (end - begin - 1) / 2) / sample_rate
    slope = float(np.sum(time_s * decay_db[begin:end])) / float(np.sum(time_s**2))
    return round(-60 / slope, 6)


def direct_to_reverberant_db(rir: Rir, sample_rate: int) -> float:
    """Return the energy up to 2.5 ms after the direct path over the later energy, in dB, rounded; at most 100."""
    end = rir.delay + round(0.0025 * sample_rate) + 1
    energy = rir.samples.astype(np.float64) ** 2
    direct, rest = float(energy[:end].sum()), float(energy[end:].sum())
    return round(10 * math.log10(direct / max(rest, direct * 1e-10)), 6)
