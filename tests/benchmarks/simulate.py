"""How fast is simulate, Ray and all, against bare loops of decode, convolve, mix and encode on as many cores?

    python -m tests.benchmarks.simulate [--quick] [--utterances 1200] [--workers N] [--rounds 3]

All sides make mixtures of the same made-up speech, noise and rooms, in as many processes as there are workers, in
turns. The bare loops do what no simulation can leave out and nothing else: no draws, no levels, no checks, no tar, no
hashes, no records. One convolves with scipy's `oaconvolve`, the other with the library's own, faster `convolve`.

`wall` is the time from a process' first begin to its last end (files synced, unit record written), the mean over the
processes; `CPU` is the processor time of all processes together, the driver's too, and is hardly moved by other
programs on the machine. Starting the workers (imports) is in neither: it is printed apart.
"""

from __future__ import annotations

import argparse
import io
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import soundfile as sf
from scipy.signal import oaconvolve

from flowse.audio.waveform import read_mono
from flowse.data.manifest import Utterance
from flowse.data.parquet import write_rows
from flowse.data.shuffle import plan_shards
from flowse.simulation.convolution import convolve
from flowse.simulation.plans import sources_digest
from flowse.simulation.recipe import MixtureConfig
from flowse.simulation.rir_bank import measured_row, write_bank
from flowse.simulation.rirs import Rir
from flowse.simulation.sources import Sources
from pipelines.engine.accounts import Tally, UnitReport
from pipelines.engine.resources import Resources
from pipelines.engine.stage import Unit, UnitOutput
from pipelines.engine.unit_queue import Outcome
from pipelines.stages.simulate import PLAN, Drawer, PlannedShard, Worker
from tests.benchmarks.machine import describe, table

RATE = 24_000
PLAIN = MixtureConfig(band_limit=0.0, equaliser=0.0, clipping=0.0, codec=0.0, packet_loss=0.0)


@dataclass(frozen=True)
class World:
    """What all sides mix."""

    folder: Path
    speech: list[Utterance]
    noise: list[Utterance]
    rir: Rir
    sources: Sources


@dataclass(frozen=True)
class Taken:
    """Seconds of one run."""

    wall_s: float
    cpu_s: float
    start_s: float = 0.0


def make_world(folder: Path, utterances: int) -> World:
    """Write 16-kHz speech of 4 to 12 s, 5-s noises, and a bank of one kind of room with a decay of 0.4 s."""
    rng = np.random.default_rng(0)
    speech, noise = [], []
    files = min(utterances, 300)
    lengths = []
    for number in range(files):
        seconds = float(rng.uniform(4, 12))
        bursts = np.sin(9 * np.arange(round(seconds * 16_000)) / 16_000) > -0.2
        coloured = np.convolve(rng.standard_normal(len(bursts)), np.ones(6) / 6, "same")
        sf.write(folder / f"s{number}.flac", 0.1 * coloured * bursts, 16_000)
        lengths.append(len(bursts) / 16_000)
    for number in range(utterances):
        speech.append(Utterance(utt_id=f"s/{number}", corpus="x", kind="speech", path=f"s{number % files}.flac",
                                split="train", duration_s=lengths[number % files], speaker=str(number)))  # fmt: skip
    for number in range(200):
        sf.write(folder / f"n{number}.flac", 0.1 * rng.standard_normal(5 * RATE), RATE)
        noise.append(Utterance(utt_id=f"n/{number}", corpus="x", kind="noise", path=f"n{number}.flac", split="train",
                               duration_s=5.0))  # fmt: skip
    time_s = np.arange(12_000) / RATE
    samples = 0.1 * rng.standard_normal(12_000) * 10 ** (-3 * time_s / 0.4)
    samples[:40], samples[40] = 0, 1
    rir = Rir(samples.astype(np.float32), 40)
    rooms = [
        (measured_row(f"r{room}", source, "train", rir, RATE, corpus="x", licence=""), rir)
        for room in range(20)
        for source in range(4)
    ]
    write_bank(folder / "b.npy", folder / "rooms.parquet", "b", rooms)
    write_rows(folder / "speech.parquet", Utterance, speech)
    write_rows(folder / "noises.parquet", Utterance, noise)
    write_rows(folder / "competitors.parquet", Utterance, [])
    sources = Sources(folder / "noises.parquet", folder / "competitors.parquet", folder / "rooms.parquet")
    return World(folder, speech, noise, rir, sources)


def _bare_process(world: World, mine: slice, own: bool, gate: Any, results: Any) -> None:
    """Decode, convolve half of them (speech, target and noise, as the worker must), mix, encode twice."""
    convolved = convolve if own else oaconvolve
    gate.wait()
    cpu, begin = time.process_time(), time.time()
    for number, row in list(enumerate(world.speech))[mine]:
        x = read_mono(world.folder / row.path, RATE)
        n = read_mono(world.folder / world.noise[number % len(world.noise)].path, RATE)
        n = np.resize(n, len(x))
        clean = x
        if number // 4 % 2:
            clean = convolved(x, world.rir.samples[:1240])[40 : 40 + len(x)]
            x = convolved(x, world.rir.samples)[40 : 40 + len(x)]
            n = convolved(n, world.rir.samples)[40 : 40 + len(x)]
        noisy = 0.3 * (x + n)
        for samples in (clean, noisy):
            sf.write(io.BytesIO(), (np.clip(samples, -1, 1) * 32767).astype(np.int16), RATE, format="FLAC")
    results.put((begin, time.time(), time.process_time() - cpu))


def bare_loops(world: World, processes: int, own: bool) -> Taken:
    """The bare loop in as many processes, each with its share."""
    context = multiprocessing.get_context("fork")
    gate, results = context.Barrier(processes), context.Queue()
    children = [
        context.Process(target=_bare_process, args=(world, slice(index, None, processes), own, gate, results))
        for index in range(processes)
    ]
    for child in children:
        child.start()
    found = [results.get() for _ in children]
    for child in children:
        child.join()
    return Taken(_mean_span([span[:2] for span in found], processes), sum(cpu for *_, cpu in found))


class Timed:
    """A worker of the stage, with the time that a unit took among its figures."""

    def __init__(self, worker: Callable[..., Any], *arguments: Any) -> None:
        self._worker = worker(*arguments)

    def __call__(self, payload: Any, output: UnitOutput) -> UnitReport:
        begin, cpu = time.time(), time.process_time()
        report: UnitReport = self._worker(payload, output)
        output.path(".begin").write_text(f"{os.getpid()} {begin}")
        # The commit (hash, sync, record) comes after this: it is counted with the next unit.
        previous, self._cpu = getattr(self, "_cpu", cpu), time.process_time()
        return replace(report, metrics={**report.metrics, "cpu_s": self._cpu - previous})


def _map(folder: Path, workers: int, arguments: Sequence[Any], units: Sequence[Unit[Any]]) -> tuple[Taken, Outcome]:
    """Do units on Ray; return seconds of the workers, and from the call to the first begin."""
    from pipelines.engine.ray_units import map_units

    called = time.time()
    resources = Resources(workers=workers)
    outcome = map_units(
        "simulate", Timed, arguments, units, folder=folder, notes=folder, resources=resources, retries=0
    )
    spans: dict[str, tuple[float, float]] = {}
    for unit in units:
        process, begin = (folder / f"{unit.name}.begin").read_text().split()
        first, last = spans.get(process, (float(begin), 0.0))
        recorded = (folder / f"{unit.name}.json").stat().st_mtime
        spans[process] = min(first, float(begin)), max(last, recorded)
    start_s = min(begin for begin, _ in spans.values()) - called
    return Taken(_mean_span(spans.values(), workers), outcome.report.metrics["cpu_s"], start_s), outcome


def on_ray(world: World, workers: int, mixture: MixtureConfig) -> Taken:
    """The whole stage: plan shards; on Ray draw recipes and write plans, then render, encode, hash, write records."""
    with tempfile.TemporaryDirectory(dir=world.folder) as name:
        folder = Path(name)
        cpu = time.process_time()
        shards = plan_shards(
            [world.folder / "speech.parquet"],
            folder / "shards",
            copies={"train": 1, "dev": 1, "test": 1},
            per_shard=-(-len(world.speech) // (4 * workers)),
            max_s=20.0,
        )
        drawn_from = sources_digest(mixture, world.sources, "train", ["x"])["x"]
        plans = [
            Unit("plan", shard, Tally(shard.mixtures, shard.seconds), key=shard.sha256 + drawn_from[:1])
            for shard in shards
        ]
        drawing, _ = _map(folder, workers, (Drawer, mixture, 0.5, 1, world.sources), plans)
        units = [
            Unit("shard", PlannedShard(folder / f"{plan.name}{PLAN}", plan.payload.mixtures), plan.taken, key=plan.key)
            for plan in plans
        ]
        rendering, outcome = _map(folder, workers, (Worker, RATE, 0.5, {"x": world.folder}, world.sources), units)
        assert outcome.report.kept.utterances == len(world.speech), outcome
        driver = time.process_time() - cpu
        return Taken(drawing.wall_s + rendering.wall_s, drawing.cpu_s + rendering.cpu_s + driver, rendering.start_s)


def _mean_span(spans: Iterable[tuple[float, float]], processes: int) -> float:
    """Seconds from begin to end, mean over the processes: they do not begin at the same time."""
    return sum(end - begin for begin, end in spans) / processes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="400 utterances, 2 rounds: a minute")
    parser.add_argument("--utterances", type=int, default=1200)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    utterances, rounds = (400, 2) if arguments.quick else (arguments.utterances, arguments.rounds)
    import ray

    with tempfile.TemporaryDirectory() as name:
        world = make_world(Path(name), utterances)
        audio_s = sum(row.duration_s for row in world.speech)
        print(f"{describe()}\n{audio_s / 3600:.2f} h of speech, {arguments.workers} processes, best of {rounds}\n")
        ray.init(address="local", num_cpus=arguments.workers, include_dashboard=False, log_to_driver=False,
                 logging_level="ERROR")  # fmt: skip
        import sys

        ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
        sides = {
            "bare loops, scipy's convolution": lambda: bare_loops(world, arguments.workers, own=False),
            "bare loops, our convolution": lambda: bare_loops(world, arguments.workers, own=True),
            "simulate on Ray, no effects": lambda: on_ray(world, arguments.workers, PLAIN),
            "simulate on Ray, default effects": lambda: on_ray(world, arguments.workers, MixtureConfig()),
        }
        times: dict[str, list[Taken]] = {}
        # In turns, best of each: other work on the machine then hits all alike.
        for _ in range(rounds):
            for side, go in sides.items():
                times.setdefault(side, []).append(go())
        ray.shutdown()
    wall = {side: min(run.wall_s for run in taken) for side, taken in times.items()}
    cpu = {side: min(run.cpu_s for run in taken) for side, taken in times.items()}
    naive, own, *_ = times
    rows = []
    for side in times:
        seconds = (f"{wall[side]:.2f}", f"{audio_s / wall[side]:,.0f}", f"{cpu[side]:.2f}")
        ratios = (wall[naive] / wall[side], cpu[naive] / cpu[side], cpu[own] / cpu[side])
        rows.append((side, *seconds, *(f"{ratio:.0%}" for ratio in ratios)))
    print(table(("", "wall s", "× real time", "CPU s", "wall ratio", "CPU ratio", "to our conv."), rows))
    starts = min(run.start_s for taken in times.values() for run in taken if run.start_s)
    print(
        f"\nstarting Ray's workers (imports), twice a stage: {starts:.1f} s; goal: a CPU ratio of 80 % without effects"
    )


if __name__ == "__main__":
    main()
