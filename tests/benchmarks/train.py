"""What a training step costs at the paper's size, what the loader feeds, what more workers bring. Prints tables.

    python tests/benchmarks/train.py step    [--steps 3] [--only fp32,compiled] [--frames 470] [--depth 22]
    python tests/benchmarks/train.py loader  [--mixtures 200]
    python tests/benchmarks/train.py workers [--steps 12]
    python tests/benchmarks/train.py balance
    python tests/benchmarks/train.py index   [--rows 1000000]

step     One optimiser step (forward, backward, clip, AdamW, moving average) on 2 × 470 frames, all ways in turn on the
         same weights, and their cost against the official layout's: three projections, attention under a mask for every
         head and frame, rotary positions on head 0, AdamW tensor by tensor, a moving average every tenth step.
loader   Seconds of mixtures a second of processor time: decoded from shards, and from the mel cache.
workers  Frames a second of 1, 2 and 4 worker processes with the same total of cores, each pinned to its own: what Ray
         Train's gradient exchange costs. Efficiency is the rate against one worker's on all of the cores.
balance  Padding, what ranks wait for each other (by padded frames), and shapes of batches, over 600 steps at the
         paper's budget: lengths like GigaSpeech's, LibriSpeech's, and a mixture to 32 s.
index    Processor time and private memory (largest, and after it) of opening an index: by the driver for the first time
         (the file that is mapped, seconds, unknown symbols), by a rank to its first planned step, and as objects.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import os
import subprocess
import sys
import tempfile
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import torch.nn.functional as F

from flowse.audio.mel import LogMel
from flowse.data.batching import Batch, Example, Loader
from flowse.data.mel_cache import MelCache
from flowse.data.parquet import schema_of
from flowse.data.shards import IndexRow, Mixture, ShardWriter, read_mixture
from flowse.data.step_plan import Position, StepPlan
from flowse.data.token_ids import count_unknown_symbols, vocabulary_id
from flowse.flow.config import DrawConfig, LossConfig
from flowse.model.blocks import Attention
from flowse.model.spec import PAPER, ModelSpec
from flowse.model.system import build
from flowse.tokenizer import Tokenizer
from flowse.training.config import LoopConfig, OptimConfig
from flowse.training.loop import TrainBatch, Trainer
from flowse.training.mixtures import Mixtures, open_rows, split_rows
from flowse.training.optim import MovingAverage
from pipelines.engine.accounts import Tally

FRAMES = 470
"""Five seconds, as in the measurement of the official code."""


def batch_of(count: int, frames: int) -> Batch:
    """Make a batch of random mels with text."""
    generator = torch.Generator().manual_seed(0)
    noisy, clean = (torch.randn(count, frames, 100, generator=generator) for _ in range(2))
    keys = tuple(f"u{index}" for index in range(count))
    ids = torch.randint(1, 100, (count, 60), generator=generator)
    return Batch(keys, tuple(range(count)), noisy, clean, torch.full((count,), frames), ids)


class _SameBatch:
    """A loader whose every step is one batch: nothing but the step is measured."""

    utterances, frame_s = 1000, 256 / 24_000

    def __init__(self, batch: Batch) -> None:
        self.item = TrainBatch.drawn(batch, DrawConfig())

    def steps(self, number: int = 0, position: Position | None = None, divisible_by: int = 1):
        from flowse.data.batching import Step

        while True:
            yield Step(number, Position(0, 0), (self.item,), self.item.batch.frames, len(self.item.batch.keys))
            number += 1


class _OfficialAttention(Attention):
    """Attention as the official code computes it."""

    def forward(self, x, mask, angles):
        parts = zip(self.qkv.weight.chunk(3), self.qkv.bias.chunk(3), strict=True)
        q, k, v = (F.linear(x, *part).unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)
        q, k = (self._position(part, angles) for part in (q, k))
        full = mask[:, None, None, :].expand(-1, self.heads, q.shape[2], -1)
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=full).transpose(1, 2).flatten(2)
        return self.dropout(self.out(attended)).masked_fill(~mask[:, :, None], 0.0)


OFFICIAL = "official layout"
WAYS = {
    OFFICIAL: {"official": True, "whole": False},
    "fp32 under a mask": {"whole": False},
    "fp32": {},
    "compiled under a mask": {"compiled": True, "whole": False},
    "compiled": {"compiled": True},
    "bf16": {"precision": "bf16"},
    "bf16 compiled": {"precision": "bf16", "compiled": True},
}
"""Ways to compute a step; "under a mask" as in a batch with padding, of which there is little in a balanced step."""


class _Ways:
    """One trainer whose steps can be computed in another way each."""

    def __init__(self, frames: int, depth: int, folder: Path) -> None:
        torch.manual_seed(0)
        model = dataclasses.replace(PAPER, depth=depth)
        system = build(ModelSpec(model=model, vocabulary=Tokenizer.default().vocabulary))
        self._batches = {whole: dataclasses.replace(batch_of(2, frames), whole=whole) for whole in (True, False)}
        self._loader = _SameBatch(self._batches[True])
        self._trainer = Trainer(
            system,
            self._loader,  # type: ignore[arg-type]
            [],
            config=LoopConfig(max_steps=1000, log_every=1, checkpoint_every=0, validate_every=0),
            optim=OptimConfig(),
            loss=LossConfig(),
            folder=folder,
            seed=0,
            identity={},
        )
        self._run = self._trainer.run()
        self.parameters = sum(weight.numel() for weight in system.parameters())

    def step(
        self, *, official: bool = False, whole: bool = True, compiled: bool = False, precision: str = "fp32"
    ) -> float:
        """Do a step in one way, and return the processor time that it took, in seconds."""
        trainer = self._trainer
        self._loader.item = TrainBatch.drawn(self._batches[whole], DrawConfig())
        trainer._config = dataclasses.replace(trainer._config, precision=precision)
        for group in trainer._optimizer.param_groups:
            group["fused"] = not official
        trainer._ema.update = (lambda: None) if official else partial(MovingAverage.update, trainer._ema)  # type: ignore[method-assign]
        for network in trainer.system.networks:
            for block in network.blocks:
                block.attention.__class__ = _OfficialAttention if official else Attention
                block.attention.rotary = "first" if official else "all"
                block._compiled_call_impl = None
                if compiled:
                    block.compile(dynamic=True)
        begun = time.process_time()
        next(self._run)
        return time.process_time() - begun


def step(arguments: argparse.Namespace) -> None:
    """Time full-size steps, all ways in turn."""
    chosen = [OFFICIAL, *(name for name in WAYS if name != OFFICIAL and name in (arguments.only or WAYS))]
    with tempfile.TemporaryDirectory() as folder:
        ways = _Ways(arguments.frames, arguments.depth, Path(folder))
        print(f"{ways.parameters / 1e6:.1f} M parameters, 2 x {arguments.frames} frames", flush=True)
        spent: dict[str, list[float]] = {name: [] for name in chosen}
        for name in chosen:
            begun = time.perf_counter()
            ways.step(**WAYS[name])  # type: ignore[arg-type]
            if "compiled" in WAYS[name]:
                print(f"{name}: the first step took {time.perf_counter() - begun:.0f} s", flush=True)
        for _ in range(arguments.steps):
            for name in chosen:
                spent[name].append(ways.step(**WAYS[name]))  # type: ignore[arg-type]
        for name in chosen:
            seconds = np.array(spent[name])
            ratio = np.median(np.array(spent[OFFICIAL]) / seconds)
            print(f"{name:<22} {np.median(seconds):7.1f} s of processor time a step, {ratio:.2f} x", flush=True)


def loader(arguments: argparse.Namespace) -> None:
    """Compare the loader on shards with the loader on the mel cache, one thread."""
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with ShardWriter(folder / "train-0.tar", "train-0.tar") as writer:
            for number in range(arguments.mixtures):
                clean = _speech_like(rng, int(rng.uniform(4, 12) * 24_000))
                noisy = clean + 0.02 * rng.standard_normal(clean.size).astype(np.float32)
                meta = {
                    "utt_id": f"{number}", "copy": 0, "split": "train", "text": "", "language": "en", "speaker": "s",
                    "corpus": "c", "licence": "", "snr_db": 5.0, "room_id": "",
                }  # fmt: skip
                writer.add(Mixture(key=f"u{number}", clean=clean, noisy=noisy, sample_rate=24_000, meta=meta))
            rows = writer.close()
        log_mel = LogMel()

        def read(row: IndexRow) -> Example:
            mixture = read_mixture(folder, row)
            return Example(mixture.noisy, mixture.clean)

        cache = MelCache(folder / "mels", rows, read, log_mel)
        cache.build("train-0.tar")
        stored = next((folder / "mels").glob("*.npy")).stat().st_size
        print(
            f"{len(rows)} mixtures, {sum(row.seconds for row in rows) / 60:.1f} min; shard "
            f"{rows[0].shard_bytes / 1e6:.0f} MB, cache {stored / 1e6:.0f} MB"
        )
        rates: dict[str, list[float]] = {"shards": [], "mel cache": []}
        for _ in range(3):
            for what, source in (("shards", read), ("mel cache", cache.read)):
                fed = Loader(
                    rows,
                    source,
                    log_mel,
                    lambda batch: TrainBatch.drawn(batch, DrawConfig()),
                    frames_per_step=20_000,
                    max_frames=1200,
                    seed=0,
                )
                plain = Loader(
                    rows, source, log_mel, lambda batch: batch, frames_per_step=20_000, max_frames=1200, seed=0
                )
                for label, loader in ((what, plain), (f"{what}, with t and noise drawn", fed)):
                    begun, frames = time.process_time(), 0
                    for current in loader.steps():
                        frames += current.frames
                        if current.after.epoch:
                            break
                    seconds = time.process_time() - begun
                    rates.setdefault(label, []).append(frames * 256 / 24_000 / seconds)
        for label, measured in rates.items():
            print(f"{label:<36} {np.median(measured):8,.0f} × real time a core (median of {len(measured)})")


def _speech_like(rng: np.random.Generator, samples: int) -> np.ndarray:
    """Harmonics under a slow envelope: FLAC packs it about as well as speech."""
    t = np.arange(samples) / 24_000
    pitch = 2 * np.pi * np.cumsum(120 + 30 * np.sin(2 * np.pi * 0.7 * t + rng.uniform(0, 6))) / 24_000
    voice = sum(np.sin(k * pitch) / k for k in range(1, 30))
    envelope = np.clip(np.sin(2 * np.pi * 2.3 * t + rng.uniform(0, 6)), 0, 1)
    speech: np.ndarray = (0.08 * voice * envelope + 1e-3 * rng.standard_normal(samples)).astype(np.float32)
    return speech


def workers(arguments: argparse.Namespace) -> None:
    """Train the same steps with 1, 2 and 4 processes on the same cores (gloo), without Ray's start-up in the time."""
    cores = sorted(os.sched_getaffinity(0))[: arguments.cores]
    rates = {}
    for count in (1, 2, 4):
        if count > len(cores):
            break
        with tempfile.TemporaryDirectory() as name:
            rates[count] = _train_with(count, cores, arguments.steps, Path(name))
        print(
            f"{count} worker(s) × {len(cores) // count} core(s): {rates[count]:8,.0f} frames/s, "
            f"efficiency {rates[count] / rates[1]:.0%}",
            flush=True,
        )


def _train_with(count: int, cores: list[int], steps: int, folder: Path) -> float:
    """Run this file's `_rank` in as many processes; return frames a second of the whole group."""
    port = 29_500 + os.getpid() % 1000 + count
    share = len(cores) // count
    processes = []
    for rank in range(count):
        mine = cores[rank * share : (rank + 1) * share]
        environment = os.environ | {
            "RANK": str(rank),
            "WORLD_SIZE": str(count),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "OMP_NUM_THREADS": str(share),
            "BENCHMARK_CORES": ",".join(map(str, mine)),
        }
        command = [sys.executable, __file__, "rank", "--steps", str(steps), "--folder", str(folder)]
        processes.append(subprocess.Popen(command, env=environment))
    if any(process.wait() for process in processes):
        raise SystemExit("a worker failed")
    return float((folder / "rate").read_text())


def rank_of_group(arguments: argparse.Namespace) -> None:
    """Be one rank: the same global batch, shared out."""
    import torch.distributed as dist

    os.sched_setaffinity(0, {int(core) for core in os.environ["BENCHMARK_CORES"].split(",")})
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    world_size = int(os.environ["WORLD_SIZE"])
    dist.init_process_group("gloo")
    model = dataclasses.replace(PAPER, dim=256, depth=8, heads=4, dropout=0.0)
    torch.manual_seed(0)
    system = build(ModelSpec(model=model))
    count = 16 // world_size
    item = TrainBatch.drawn(batch_of(count, 250), DrawConfig())
    same = _SameBatch(dataclasses.replace(item.batch, text_ids=None))
    trainer = Trainer(
        system,
        same,  # type: ignore[arg-type]
        [],
        config=LoopConfig(max_steps=arguments.steps + 3, log_every=1, checkpoint_every=0),
        optim=OptimConfig(),
        loss=LossConfig(),
        folder=Path(arguments.folder) / "checkpoints",
        seed=0,
        identity={},
    )
    run = trainer.run()
    for _ in range(2):
        next(run)
    begun = time.perf_counter()
    for _ in range(arguments.steps):
        next(run)
    seconds = time.perf_counter() - begun
    if dist.get_rank() == 0:
        (Path(arguments.folder) / "rate").write_text(str(arguments.steps * 16 * 250 / seconds))
    dist.barrier()
    dist.destroy_process_group()


def _lengths(kind: str, count: int) -> np.ndarray:
    """Draw lengths in mel frames."""
    rng = np.random.default_rng(0)
    seconds = {
        "gigaspeech": lambda: np.clip(rng.lognormal(1.2, 0.6, count), 0.5, 20),
        "librispeech": lambda: np.clip(rng.normal(12.5, 3.5, count), 1.5, 17),
        "mixed": lambda: np.clip(rng.lognormal(2.2, 0.8, count), 1, 32),
    }[kind]()
    frames: np.ndarray = (seconds * 93.75).astype(int) + 1
    return frames


def balance(_: argparse.Namespace) -> None:
    """Plan steps for many ranks and compare their shares."""
    for kind in ("gigaspeech", "librispeech", "mixed"):
        frames = _lengths(kind, 200_000)
        for budget, world in ((38_400, 8), (38_400, 16), (307_200, 8), (307_200, 64)):
            real = computed = waited_for = steps = 0
            shapes = set()
            for step in itertools.islice(StepPlan(frames, budget, 1, world).epoch(0), 600):
                ranks = [sum(len(batch) for batch in step.batches(rank, world)) * step.length for rank in range(world)]
                shapes |= {(len(batch), step.length) for batch in step.batches(0, world)}
                real += int(frames[list(step.utterances)].sum())
                computed += sum(ranks)
                waited_for += world * max(ranks)
                steps += 1
            print(
                f"{kind:<12} {budget // world:6d} frames a rank x {world:2d}: padding {1 - real / computed:5.1%}, "
                f"ranks wait {1 - computed / waited_for:5.1%}, {len(shapes)} shapes, "
                f"{real / steps / budget:.0%} of the budget filled"
            )


def index(arguments: argparse.Namespace) -> None:
    """Write a made-up index; the driver opens it, a rank, and rows are made objects, each in a process of its own."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _made_up_index(folder / "index.parquet", arguments.rows)
        size = (folder / "index.parquet").stat().st_size
        print(f"{arguments.rows:,d} rows, {size / 1e6:,.0f} MB", flush=True)
        for way in ("driver", "rank", "objects")[: 2 if arguments.rows > 2_000_000 else 3]:
            command = [sys.executable, __file__, "opened", "--folder", name, "--way", way]
            subprocess.run(command, check=True)


def _made_up_index(path: Path, rows: int) -> None:
    schema, rng = schema_of(IndexRow), np.random.default_rng(0)
    numbers = rng.permutation(rows)  # shards hold rows in the order of a hash, not of their keys
    vocabulary = vocabulary_id(Tokenizer.default().vocabulary)
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for begin in range(0, rows, 100_000):
            ids = range(begin, min(rows, begin + 100_000))
            texts = {
                "key": [f"gigaspeech/xl/YOU{i % 1000:010d}/S{i:08d}-3f9a2c11-opus" for i in numbers[ids]],
                "utt_id": [f"gigaspeech/xl/YOU{i % 1000:010d}/S{i:08d}" for i in numbers[ids]],
                "content": [f"{i:032x}" for i in numbers[ids]],
                "vocabulary": [vocabulary] * len(ids),
                "shard": [f"../units/train-gigaspeech-{i // 1000:020d}.tar" for i in ids],
                "split": ["train"] * len(ids),
                "text": [f"and so my fellow americans ask not what your country number {i}" for i in ids],
                "sha256": [f"{i // 1000:064x}" for i in ids],
            }
            columns = {}
            for field in schema:
                if pa.types.is_list(field.type):
                    offsets = np.arange(0, 60 * len(ids) + 1, 60, dtype=np.int32)
                    values = rng.integers(1, 60, 60 * len(ids)).astype(np.uint16)
                    columns[field.name] = pa.ListArray.from_arrays(offsets, values).cast(field.type)
                elif pa.types.is_string(field.type):
                    columns[field.name] = texts.get(field.name, ["en"] * len(ids))
                else:
                    columns[field.name] = rng.integers(48_000, 288_000, len(ids)).astype(field.type.to_pandas_dtype())
            writer.write_table(pa.table(columns, schema=schema))


def opened(arguments: argparse.Namespace) -> None:
    """Open an index in one way, and print what that takes."""
    folder = Path(arguments.folder)

    def private_mib() -> float:
        line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon"))
        return int(line.split()[1]) / 1024

    before, begun = private_mib(), time.process_time()
    vocabulary = Tokenizer.default().vocabulary
    peak = [0.0]
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.02):
            peak[0] = max(peak[0], private_mib())

    threading.Thread(target=watch, daemon=True).start()
    wall = time.perf_counter()
    if arguments.way == "driver":
        mixtures = Mixtures.read(folder, folder / "cache")
        rows: Any = mixtures.train
        kept = Tally.of(mixtures.seconds), count_unknown_symbols(vocabulary, rows)
    else:
        rows = (
            split_rows(folder, "train") if arguments.way == "objects" else open_rows(folder, "train", folder / "cache")
        )
        settings = {"frames_per_step": 38_400, "max_frames": 3000, "seed": 0}
        loader = Loader(rows, lambda row: row, LogMel(), lambda batch: batch, **settings)  # type: ignore[arg-type]
        kept = loader, next(StepPlan(loader.frames, 38_400, 0, 8).steps(Position()))
    seconds, wall = time.process_time() - begun, time.perf_counter() - wall
    done.set()
    pa.default_memory_pool().release_unused()
    used = private_mib() - before
    print(
        f"{arguments.way:<8} {len(rows):9,d} rows: {used * 2**20 / len(rows):7.0f} B a row afterwards, "
        f"{max(0, peak[0] - before):,.0f} MiB at most, {seconds:5.1f} s of processor time ({wall:.1f} s)",
        flush=True,
    )
    del kept


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    first = commands.add_parser("step")
    first.add_argument("--steps", type=int, default=3)
    first.add_argument("--only", type=lambda text: text.split(","), default=[])
    first.add_argument("--frames", type=int, default=FRAMES)
    first.add_argument("--depth", type=int, default=PAPER.depth, help="blocks, all of the paper's width")
    two = commands.add_parser("loader")
    two.add_argument("--mixtures", type=int, default=200)
    three = commands.add_parser("workers")
    three.add_argument("--steps", type=int, default=12)
    three.add_argument("--cores", type=int, default=4)
    commands.add_parser("balance")
    rows = commands.add_parser("index")
    rows.add_argument("--rows", type=int, default=1_000_000)
    one_way = commands.add_parser("opened")
    one_way.add_argument("--folder")
    one_way.add_argument("--way")
    four = commands.add_parser("rank")
    four.add_argument("--steps", type=int)
    four.add_argument("--folder")
    arguments = parser.parse_args()
    if arguments.command not in ("rank", "opened"):
        print(f"{os.cpu_count()} cores, torch {torch.__version__}, {torch.get_num_threads()} threads", flush=True)
    known = {"step": step, "loader": loader, "workers": workers, "balance": balance, "index": index}
    (known | {"rank": rank_of_group, "opened": opened})[arguments.command](arguments)


if __name__ == "__main__":
    main()
