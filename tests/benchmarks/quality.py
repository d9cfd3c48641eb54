"""What does the quality gate say of real recordings, and of the same ones made worse in known ways? Takes minutes.

    python -m tests.benchmarks.quality AUDIO [--count 25]

AUDIO holds recordings and `manifest.csv` (path, kind: speech, noise, noisy or clean, corpus). The speech under
`train/speech/en` is measured as it is, brought to 8 kHz and back, mixed with noise, and clipped.
"""

from __future__ import annotations

import argparse
import csv
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from flowse.audio.bandwidth import bandwidth_hz
from flowse.audio.level import active_level_dbfs, level_dbfs
from flowse.audio.waveform import read, resample, to_mono
from flowse.metrics.quality import QualityMeter
from flowse.quality import MEASURES, Quality, QualityLimits, judge
from flowse.refusal import Refusal
from tests.benchmarks.machine import table

EXAMPLE = QualityLimits(min_bandwidth_hz=4500.0, min_snr_db=10.0, max_clipped=0.0005, min_dnsmos=2.2)
Sounds = list[tuple[np.ndarray, int]]


def in_16_bits(samples: np.ndarray) -> np.ndarray:
    return (np.round(np.clip(samples, -1, 1) * 32768) / 32768).astype(np.float32)


def as_call(samples: np.ndarray, rate: int) -> np.ndarray:
    return in_16_bits(resample(resample(samples, rate, 8000), 8000, rate))


def noisy(samples: np.ndarray, rate: int, noise: np.ndarray, snr_db: float) -> np.ndarray:
    background = np.resize(noise, len(samples))
    gain = 10 ** ((active_level_dbfs(samples, rate) - level_dbfs(background) - snr_db) / 20)
    mixture = samples + gain * background
    return in_16_bits(mixture / max(1.0, float(np.abs(mixture).max())))


def clipped(samples: np.ndarray, share: float) -> np.ndarray:
    limit = float(np.quantile(np.abs(samples), 1 - share))
    return in_16_bits(np.clip(samples, -limit, limit))


def sets(audio: Path, count: int) -> Iterator[tuple[str, Sounds]]:
    """Yield each set's name and its recordings."""
    chance = random.Random(2)
    with (audio / "manifest.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))

    def load(**wanted: str) -> Sounds:
        found = [row for row in rows if all(row[key].startswith(value) for key, value in wanted.items())]
        chosen = chance.sample(found, min(count, len(found)))
        read_ones = [read(audio / row["path"]) for row in chosen]
        return [(to_mono(samples), rate) for samples, rate in read_ones]

    speech = load(path="train/speech/en")
    noises = [resample(samples, rate, 16_000) for samples, rate in load(path="train/noise")]
    yield "LibriSpeech", speech
    yield "… brought to 8 kHz and back", [(as_call(samples, rate), rate) for samples, rate in speech]
    for snr_db in (0.0, 5.0, 10.0, 20.0):
        mixed = zip(speech, noises, strict=False)
        yield (
            f"… in ESC-10 noise at {snr_db:g} dB",
            [(noisy(*sound, noise, snr_db), sound[1]) for sound, noise in mixed],
        )
    for share in (0.001, 0.01):
        yield f"… with {share:.1%} of samples clipped", [(clipped(samples, share), rate) for samples, rate in speech]
    yield "noisy recordings of test sets", load(kind="noisy")
    yield "their clean versions", load(kind="clean")
    for corpus in ("aishell", "speechocean762", "an4", "precise_es", "audio-cmn-hsk"):
        yield corpus, load(corpus=corpus, kind="speech")
    yield "noise alone (ESC-10)", load(path="train/noise")


def _reason(quality: Quality, limits: QualityLimits) -> str:
    try:
        judge(quality, limits)
    except Refusal as refusal:
        return refusal.reason
    return ""


def bands(audio: Path, count: int) -> str:
    """Say of how many recordings the band ends below the example's limit, as they are and brought to 8 kHz and back."""
    with (audio / "manifest.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["kind"] in ("speech", "noisy", "clean")]
    by_corpus: dict[str, list[str]] = {}
    for row in rows:
        by_corpus.setdefault(row["corpus"], []).append(row["path"])
    chance, limit = random.Random(1), EXAMPLE.min_bandwidth_hz or 0.0
    whole: list[float] = []
    calls: list[float] = []
    for paths in by_corpus.values():
        for path in chance.sample(paths, min(count, len(paths))):
            samples, rate = read(audio / path)
            mono = to_mono(samples)
            whole.append(bandwidth_hz(mono, rate))
            calls.append(bandwidth_hz(as_call(mono, rate), rate))
    return (
        f"{len(whole)} recordings of {len(by_corpus)} sources: {sum(value < limit for value in whole)} end below "
        f"{limit:g} Hz as they are, {sum(value < limit for value in calls)} brought to 8 kHz and back, the highest of "
        f"these at {max(calls):g} Hz"
    )


def main() -> None:
    """Print a table of the values (10 %, median, 90 %) and of the shares that example thresholds drop."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("audio", type=Path)
    parser.add_argument("--count", type=int, default=25, help="recordings of each set (default: %(default)s)")
    arguments = parser.parse_args()
    meter = QualityMeter()
    rows = []
    for name, sounds in sets(arguments.audio, arguments.count):
        found = [meter.of_samples(samples[None], rate) for samples, rate in sounds]
        cells = [name, f"{len(found)}"]
        for measure in MEASURES:
            values = [value for quality in found if (value := measure.value(quality)) is not None]
            cells.append(" ".join(f"{value:.4g}" for value in np.percentile(values, (10, 50, 90))))
        for measure in MEASURES:
            only = QualityLimits(**{measure.limit: EXAMPLE.of(measure)})
            dropped = sum(_reason(quality, only) == measure.reason for quality in found)
            cells.append(f"{dropped / len(found):.0%}")
        cells.append(f"{sum(bool(_reason(quality, EXAMPLE)) for quality in found) / len(found):.0%}")
        rows.append(cells)
        print(name, flush=True)
    heads = ("", "n", *(measure.label for measure in MEASURES), *(measure.reason for measure in MEASURES), "any")
    print(f"\n{bands(arguments.audio, 60)}")
    print(f"\n{EXAMPLE}\n{table(heads, rows)}")


if __name__ == "__main__":
    main()
