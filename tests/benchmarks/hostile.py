"""Is the embedded model ever worse than its input on recordings of the field? Takes minutes.

    python -m tests.benchmarks.hostile AUDIO [--protect none listening asr]

AUDIO holds dev/languages/<code> and dev/noise. From two readers and some noises it makes recordings that are clipped,
from a telephone, with an offset or hum, very quiet, with music, babble or another voice, silent for long, in stereo, or
no speech at all. Exit status 1: DNSMOS overall falls by more than 0.05 somewhere, or a peak or a length is wrong.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from flowse.audio.waveform import level_dbfs, read_mono, resample
from flowse.enhancer import CEILING, Enhancer
from flowse.metrics.dnsmos import Dnsmos
from tests.benchmarks.machine import table

RATE = 16_000
WORST = 0.05


def at_snr(speech: np.ndarray, noise: np.ndarray, snr_db: float) -> np.ndarray:
    noise = np.resize(noise, len(speech))
    gain = np.sqrt(np.mean(speech**2) / (np.mean(noise**2) + 1e-12)) * 10 ** (-snr_db / 20)
    return np.asarray(speech + gain * noise)


def at_level(x: np.ndarray, dbfs: float) -> np.ndarray:
    return np.asarray(x * 10 ** ((dbfs - level_dbfs(np.asarray(x, np.float32))) / 20))


def by_telephone(x: np.ndarray) -> np.ndarray:
    """At 8 kHz, through the eight logarithmic bits of a telephone (mu-law)."""
    narrow = np.clip(resample(np.asarray(x, np.float32), RATE, 8_000), -1, 1)
    coded = np.round(np.sign(narrow) * np.log1p(255 * np.abs(narrow)) / np.log(256) * 127) / 127
    return np.asarray(np.sign(coded) * (256 ** np.abs(coded) - 1) / 255)


def recordings(audio: Path) -> Iterator[tuple[str, np.ndarray, int]]:
    """Yield name, samples `(N,)` or `(N, 2)`, and rate."""
    rng = np.random.default_rng(3)
    voices = [read_mono(path, RATE) for path in sorted((audio / "dev/languages/en").glob("pocketsphinx*"))]
    crowd = voices + [read_mono(path, RATE) for path in sorted((audio / "dev/languages/zh").glob("*.wav"))[:3]]
    noise, other = (read_mono(path, RATE) for path in sorted((audio / "dev/noise").glob("*"))[:80:8][3:6:2])
    clean = at_level(voices[0], -24.4)
    n = len(clean)
    time = np.arange(n) / RATE
    noisy, white = at_snr(clean, noise, 8), rng.standard_normal(n)
    music = sum(np.sin(2 * np.pi * hz * time) * np.exp(-3 * (2 * time % 1)) for hz in (110, 220, 277.2, 329.6, 440))
    babble = np.sum([np.resize(voice, n) / np.sqrt(np.mean(voice**2)) for voice in crowd], axis=0)
    hiss = 3e-4 * rng.standard_normal(25 * RATE)
    fast = [resample(np.asarray(x, np.float32), RATE, 44_100) for x in (noisy, 0.3 * clean)]
    wide = resample(np.asarray(clean, np.float32), RATE, 48_000)
    hum = 0.1 * np.sin(2 * np.pi * 50 * time) + 0.05 * np.sin(2 * np.pi * 150 * time)
    named = {
        "clean": clean,
        "clipped by 12 times": np.clip(12 * noisy, -1, 1),
        "clipped by 12 times, clean": np.clip(12 * clean, -1, 1),
        "offset of 0.3": noisy + 0.3,
        "offset of 0.3, clean": clean + 0.3,
        "offset that jumps": noisy + np.where(2 * time > time[-1], 0.2, -0.1),
        "at -60 dBFS": at_level(noisy, -60),
        "at -60 dBFS, clean": at_level(clean, -60),
        "at -85 dBFS in 16 bits": np.round(32_768 * at_level(clean, -85)) / 32_768,
        "music at 5 dB": at_snr(clean, music, 5),
        "music at 0 dB": at_snr(clean, music, 0),
        "music alone": 0.4 * music / np.abs(music).max(),
        "babble at 5 dB": at_snr(clean, babble, 5),
        "babble at 0 dB": at_snr(clean, babble, 0),
        "another voice at 10 dB": at_snr(clean, voices[2], 10),
        "25 s of silence around": np.pad(noisy, 25 * RATE),
        "25 s of hiss around": np.concatenate([hiss, clean, hiss]),
        "hum of 50 Hz": clean + hum,
        "clicks": clean + np.where(np.arange(n) % 4_000 == 0, 0.9, 0),
        "white noise at -5 dB": at_snr(clean, white, -5),
        "white noise at 20 dB": at_snr(clean, white, 20),
        "dropouts": noisy * (np.sin(6 * np.pi * time) > -0.7),
        "loud, then quiet": np.concatenate([6 * noisy, 0.02 * noisy]),
        "a tenth of a second": clean[RATE // 2 : RATE // 2 + RATE // 10],
        "noise alone": np.resize(other, n),
        "a tone": 0.3 * np.sin(2 * np.pi * 440 * time),
        "zeros": np.zeros(n),
    }
    yield from ((name, samples, RATE) for name, samples in named.items())
    yield "telephone", by_telephone(2 * noisy), 8_000
    yield "telephone, clean", by_telephone(2 * clean), 8_000
    yield "stereo at 44.1 kHz", np.stack(fast, axis=1), 44_100
    yield "stereo, one side silent", np.stack([fast[0], np.zeros_like(fast[0])], axis=1), 44_100
    yield "48 kHz with noise up to 24 kHz", wide + 0.01 * rng.standard_normal(len(wide)), 48_000


def mono(x: np.ndarray) -> np.ndarray:
    return np.asarray(x if x.ndim == 1 else x.mean(axis=1), np.float32)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("audio", type=Path)
    parser.add_argument("--protect", nargs="+", default=["none", "listening"])
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    enhancer, opinion = Enhancer.from_pretrained(), Dnsmos(arguments.threads)
    rows, faults = [], []
    for name, samples, rate in recordings(arguments.audio):
        x = np.asarray(samples, np.float32)
        before, peak = opinion(mono(x), rate).ovrl, float(np.abs(x).max())
        cells = [name, f"{before:.2f}"]
        for protect in arguments.protect:
            y = enhancer.enhance(x, rate, sampling=replace(enhancer.sampling, protect=protect))
            after = opinion(mono(y), rate).ovrl
            cells.append(f"{after:.2f}")
            if after < before - WORST:
                faults.append(f"{name}, {protect}: DNSMOS overall {before:.2f} became {after:.2f}")
            if y.shape != x.shape or not np.isfinite(y).all() or np.abs(y).max() > max(CEILING, peak) + 1e-4:
                faults.append(f"{name}, {protect}: shape {y.shape}, peak {np.abs(y).max():.2f} (input {peak:.2f})")
        rows.append(cells)
    print(table(["DNSMOS overall", "input", *arguments.protect], rows))
    print("\n".join(faults) or "nothing is worse than its input")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
