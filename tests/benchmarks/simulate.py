"""How fast is simulate's worker against a bare loop of decode, convolve, mix and encode? Prints a table.

    python tests/benchmarks/simulate.py [--utterances 300] [--rounds 3]

Both make mixtures of the same made-up speech, noise and rooms, one process, one thread; processor time is measured,
so that other work on the machine matters less. The bare loop does what no simulation can leave out, and nothing
else: no draws, no level, no checks, no tar.
"""

from __future__ import annotations

import argparse
import io
import os
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import soundfile as sf
from scipy.signal import oaconvolve

from flowse.audio.waveform import read_mono
from flowse.data.manifest import Utterance, write_rows
from flowse.data.shuffle import deal
from flowse.simulation.recipe import MixtureConfig
from flowse.simulation.rooms import Rir, measured_row, write_bank
from pipelines.simulate import Config, Sources, Worker

RATE = 24_000
PLAIN = MixtureConfig(band_limit=0, equaliser=0, clipping=0, codec=0, packet_loss=0)


def make_world(folder: Path, utterances: int) -> tuple[list[Utterance], list[Utterance], Rir]:
    """Write 16-kHz speech of 4 to 12 s, 5-s noises, and a bank of one kind of room with a decay of 0.4 s."""
    rng = np.random.default_rng(0)
    speech, noise = [], []
    for number in range(utterances):
        seconds = float(rng.uniform(4, 12))
        bursts = np.sin(9 * np.arange(round(seconds * 16_000)) / 16_000) > -0.2
        coloured = np.convolve(rng.standard_normal(len(bursts)), np.ones(6) / 6, "same")
        sf.write(folder / f"s{number}.flac", 0.1 * coloured * bursts, 16_000)
        speech.append(Utterance(utt_id=f"s/{number}", corpus="x", kind="speech", path=f"s{number}.flac", split="train",
                                duration_s=len(bursts) / 16_000, speaker=str(number)))  # fmt: skip
    for number in range(200):
        sf.write(folder / f"n{number}.flac", 0.1 * rng.standard_normal(5 * RATE), RATE)
        noise.append(Utterance(utt_id=f"n/{number}", corpus="x", kind="noise", path=f"n{number}.flac", split="train",
                               duration_s=5.0))  # fmt: skip
    time_s = np.arange(12_000) / RATE
    samples = 0.1 * rng.standard_normal(12_000) * 10 ** (-3 * time_s / 0.4)
    samples[:40], samples[40] = 0, 1
    return speech, noise, Rir(samples.astype(np.float32), 40)


def bare_loop(folder: Path, speech: list[Utterance], noise: list[Utterance], rir: Rir) -> float:
    """Decode, convolve half of them (speech, target and noise, as the worker must), mix, encode twice; seconds."""
    begin = time.process_time()
    for number, row in enumerate(speech):
        x = read_mono(folder / row.path, RATE)
        n = read_mono(folder / noise[number % len(noise)].path, RATE)
        n = np.resize(n, len(x))
        clean = x
        if number % 2:
            clean = oaconvolve(x, rir.samples[:1240])[40 : 40 + len(x)]
            x = oaconvolve(x, rir.samples)[40 : 40 + len(x)]
            n = oaconvolve(n, rir.samples)[40 : 40 + len(x)]
        noisy = 0.3 * (x + n)
        for samples in (clean, noisy):
            sf.write(io.BytesIO(), (np.clip(samples, -1, 1) * 32767).astype(np.int16), RATE, format="FLAC")
    return time.process_time() - begin


def worker_loop(
    folder: Path, speech: list[Utterance], noise: list[Utterance], rir: Rir, mixture: MixtureConfig
) -> float:
    """The stage's own worker on the same utterances; seconds."""
    write_rows(folder / "speech.parquet", Utterance, speech)
    write_rows(folder / "noises.parquet", Utterance, noise)
    write_rows(folder / "competitors.parquet", Utterance, [])
    rooms = [
        (measured_row(f"r{room}", source, "train", rir, RATE, corpus="x", licence=""), rir)
        for room in range(20)
        for source in range(4)
    ]
    write_bank(folder / "b.npy", folder / "rooms.parquet", "b", rooms)
    copies = {"train": 1, "dev": 1, "test": 1}
    hands = deal([folder / "speech.parquet"], folder / "hands", seed=1, copies=copies, per_shard=100, max_s=20)  # type: ignore[arg-type]
    sources = Sources(folder / "noises.parquet", folder / "competitors.parquet", folder / "rooms.parquet", folder)
    worker = Worker(Config(mixture=mixture), 1, {"x": folder}, sources)
    begin = time.process_time()
    for hand in hands:
        output = SimpleNamespace(path=lambda suffix, name=hand.name: folder / f"{name}{suffix}")
        report = worker(hand, output)  # type: ignore[arg-type]
        assert not report.rejects, report.rejects
    return time.process_time() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--utterances", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        speech, noise, rir = make_world(folder, arguments.utterances)
        audio_s = sum(row.duration_s for row in speech)
        # In turns, best of each: other work on the machine then hits all alike.
        times: dict[str, list[float]] = {}
        for _ in range(arguments.rounds):
            times.setdefault("bare loop", []).append(bare_loop(folder, speech, noise, rir))
            times.setdefault("worker, no effects", []).append(worker_loop(folder, speech, noise, rir, PLAIN))
            times.setdefault("worker, default effects", []).append(
                worker_loop(folder, speech, noise, rir, MixtureConfig())
            )
        bare = min(times["bare loop"])
        print(f"{audio_s / 60:.1f} min of speech, one core\n{'':26} × real time   of the bare loop")
        for what, taken in times.items():
            print(f"{what:26} {audio_s / min(taken):11.0f}   {bare / min(taken):16.0%}")


if __name__ == "__main__":
    main()
