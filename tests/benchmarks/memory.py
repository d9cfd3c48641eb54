"""Does a data stage's memory grow with the corpus? Runs ingest to simulate on 1×, 4× and 16× as many files.

    python -m tests.benchmarks.memory [--quick] [--files 100]

Every stage is a command of its own (`python -m pipelines run STAGE`) with two workers, on hard links to a few made-up
recordings; Whisper is a small one with random weights, which costs little time and takes the same way through the
code. The largest resident size of the driver and of any worker is read from /proc four times a second (Linux).
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile as sf
import torch
import yaml
from whisper.model import ModelDimensions, Whisper
from whisper.tokenizer import LANGUAGES

from tests.benchmarks.machine import describe, table

STAGES = ("ingest", "quality", "filter_language", "transcribe", "simulate")
ROOT = Path(__file__).parents[2]


def make_world(folder: Path) -> None:
    """Write a few recordings and a model that hears 4 s at once."""
    rng = np.random.default_rng(0)
    for kind in ("speech", "noise"):
        (folder / "base" / kind).mkdir(parents=True)
        for number in range(20):
            n = round(float(rng.uniform(1.5, 6.0)) * 16_000)
            envelope = np.maximum(0.01, np.sin(np.arange(n) * 2 * np.pi * 3 / 16_000)) if kind == "speech" else 1.0
            sf.write(folder / "base" / kind / f"{number:02d}.flac", 0.1 * envelope * rng.standard_normal(n), 16_000)
    model = Whisper(ModelDimensions(80, 200, 32, 2, 1, 51865, 24, 32, 2, 1))
    torch.nn.init.normal_(model.decoder.positional_embedding)  # openai-whisper leaves it as the memory was
    torch.save({"dims": model.dims.__dict__, "model_state_dict": model.state_dict()}, folder / "model.pt")


def make_corpus(folder: Path, base: Path, count: int) -> Path:
    """Link `count` files of speech and 40 of noise."""
    for kind, number in (("speech", count), ("noise", 40)):
        target = folder / kind
        target.mkdir(parents=True)
        files = sorted((base / kind).iterdir())
        for index in range(number):
            os.link(files[index % len(files)], target / f"{index:06d}.flac")
    experiment = {
        "name": "memory",
        "seed": 1,
        "ingest": {
            "speech": [{"name": "speech", "root": str(folder / "speech")}],
            "noise": [{"name": "noise", "root": str(folder / "noise")}],
            "utterances_per_unit": 25,
        },
        "rooms": {"train_rooms": 2, "dev_rooms": 1, "test_rooms": 1},
        "filter_language": {
            "languages": list(LANGUAGES), "model": str(base.parent / "model.pt"), "min_probability": 0.0,
        },
        "transcribe": {
            "model": str(base.parent / "model.pt"), "doubtful": "keep", "rules": {"max_no_speech_prob": 1.0},
        },
        "simulate": {"mixtures_per_shard": 25},
    }  # fmt: skip
    (folder / "experiment.yaml").write_text(yaml.safe_dump(experiment))
    (folder / "cluster.yaml").write_text(yaml.safe_dump({"num_cpus": 2}))
    return folder / "experiment.yaml"


def _processes() -> dict[int, tuple[int, str]]:
    """Every process' parent and command line."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text()
                words = (entry / "cmdline").read_text().replace("\0", " ")
            except OSError:  # it has just ended
                continue
            found[int(entry.name)] = int(stat.rpartition(")")[2].split()[1]), words
    return found


def _peak_mib(process: int) -> float:
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")), 0.0)


def run_stage(stage: str, experiment: Path) -> tuple[float, float, float]:
    """Return the peak of the driver and of the largest worker, in MiB, and seconds."""
    folder = experiment.parent
    words = [sys.executable, "-m", "pipelines", "run", stage, f"--experiment={experiment}",
             f"--cluster={folder / 'cluster.yaml'}", f"--workspace={folder / 'w'}"]  # fmt: skip
    begin = time.perf_counter()
    log = (folder / f"{stage}.log").open("w")
    driver = subprocess.Popen(words, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT)
    peaks = {"driver": 0.0, "worker": 0.0}
    while driver.poll() is None:
        peaks["driver"] = max(peaks["driver"], _peak_mib(driver.pid))
        processes = _processes()
        for process, (_, command) in processes.items():
            # Ray's actors are children of its raylet, which the driver starts; there may be other Rays.
            if command.startswith("ray::_Host") and _descends(process, driver.pid, processes):
                peaks["worker"] = max(peaks["worker"], _peak_mib(process))
        time.sleep(0.25)
    if driver.returncode:
        raise SystemExit((folder / f"{stage}.log").read_text()[-3000:])
    return peaks["driver"], peaks["worker"], time.perf_counter() - begin


def _descends(process: int, ancestor: int, processes: dict[int, tuple[int, str]]) -> bool:
    while process > 1:
        if process == ancestor:
            return True
        process = processes.get(process, (0, ""))[0]
    return False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="1× and 4× only")
    parser.add_argument("--files", type=int, default=100)
    arguments = parser.parse_args()
    sizes = (1, 4) if arguments.quick else (1, 4, 16)
    print(f"{describe()}\n1× is {arguments.files} files\n", flush=True)
    found: dict[str, list[tuple[float, float, float]]] = {stage: [] for stage in STAGES}
    with tempfile.TemporaryDirectory() as name:
        make_world(Path(name))
        for size in sizes:
            experiment = make_corpus(Path(name) / f"{size}x", Path(name) / "base", size * arguments.files)
            for stage in STAGES:
                if stage == "simulate":
                    run_stage("rooms", experiment)
                found[stage].append(run_stage(stage, experiment))
                print(f"{size}× {stage}: {found[stage][-1][2]:.0f} s", file=sys.stderr, flush=True)
    heads = ("peak MiB", *(f"{who} {size}×" for who in ("driver", "worker") for size in sizes))
    rows = [
        (stage, *(f"{peaks[who]:.0f}" for who in (0, 1) for peaks in measured)) for stage, measured in found.items()
    ]  # fmt: skip
    print(table(heads, rows))


if __name__ == "__main__":
    main()
