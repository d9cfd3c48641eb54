"""How much memory does the bookkeeping of ten million utterances take?

    python -m tests.benchmarks.manifests [--quick] [--rows 10000000]

Made-up manifests are written part by part to a temporary folder and deleted afterwards. Every task then runs in a
process of its own, whose largest resident size is printed: ingest's listing (ids that repeat, units) and its look for
equal recordings, the splits' leak check, `status` and `explain` of a stage with as many units, the plan of the shards,
and the report of rejects. Goal: under 2 GiB each.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from flowse.data.leaks import find_leaks
from flowse.data.manifest import Reject, Utterance
from flowse.data.parquet import schema_of
from tests.benchmarks.machine import describe, table

PER_PART = 500
BIG_PART = 100_000


def rows_of(count: int) -> Iterator[Utterance]:
    """Utterances as a corpus' reader yields them."""
    for number in range(count):
        yield Utterance(utt_id=f"corpus/speaker-{number % 50_000:05d}/book-{number // 97}/utt-{number:09d}-flac",
                        corpus="corpus", kind="speech", path=f"speaker-{number % 50_000:05d}/{number:09d}.flac",
                        speaker=f"{number % 50_000:05d}", text="seven words that somebody has said here")  # fmt: skip


def write_parts(folder: Path, count: int) -> list[Path]:
    """Write a manifest as columns, in parts of 100,000: with 500 a part the files alone would take an hour."""
    folder.mkdir()
    paths = []
    schema = schema_of(Utterance)
    for begin in range(0, count, BIG_PART):
        numbers = np.arange(begin, min(begin + BIG_PART, count))
        size = len(numbers)
        columns: dict[str, Any] = {
            "utt_id": [f"corpus/speaker-{n % 50_000:05d}/book-{n // 97}/utt-{n:09d}-flac" for n in numbers],
            "corpus": ["corpus"] * size,
            "kind": ["speech"] * size,
            "path": [f"speaker-{n % 50_000:05d}/{n:09d}.flac" for n in numbers],
            "speaker": [f"{n % 50_000:05d}" for n in numbers],
            "split": [("train", "train", "dev", "test")[n % 50_000 % 4] for n in numbers],
            "duration_s": 3.0 + numbers % 10,
            "offset_s": np.zeros(size),
            "sample_rate": np.full(size, 16_000),
            "channels": np.ones(size, np.int64),
            "text": ["seven words that somebody has said here"] * size,
            "language": ["en"] * size,
            "licence": ["CC0-1.0"] * size,
            "text_source": ["corpus"] * size,
            "language_prob": pa.nulls(size, pa.float64()),
            "text_logprob": pa.nulls(size, pa.float64()),
            # A recording in a thousand is there twice.
            "content": [f"{n - (n % 1000 == 999):032x}" for n in numbers],
        }
        arrays = [pa.array(columns[name], schema.field(name).type) for name in schema.names]
        path = folder / f"part-{begin // BIG_PART:05d}.parquet"
        pq.write_table(pa.Table.from_arrays(arrays, schema=schema), path, compression="zstd")
        paths.append(path)
    return paths


def listing(folder: Path, parts: list[Path], count: int) -> str:
    """The listing of ingest: repeated ids, listings, units."""
    from pipelines.corpora import checked_rows
    from pipelines.corpora import listing as module
    from pipelines.corpora.config import CorpusConfig

    reader = SimpleNamespace(read=lambda *_: rows_of(count), LICENCE="CC0-1.0")
    for place in (module, checked_rows):
        place.reader_of = lambda *_: (reader, None)  # type: ignore[attr-defined]
    corpora: Any = [("speech", CorpusConfig(name="corpus", root="/"))]
    units = list(module.list_units(corpora, {"corpus": Path("/")}, folder / "listing", PER_PART, 1))
    return f"{len(units):,} units, {sum(len(unit.payload.repeated) for unit in units)} ids repeat"


def duplicates(folder: Path, parts: list[Path], count: int) -> str:
    """Ingest's look for recordings with the same bytes."""
    from pipelines.corpora.duplicates import find_duplicates

    return f"{sum(map(len, find_duplicates(parts).values())):,} rows repeat the bytes of others"


def leaks(folder: Path, parts: list[Path], count: int) -> str:
    """Simulate's leak check, over every recording."""
    found = [*find_leaks(parts, "speaker", ("corpus", "speaker")), *find_leaks(parts, "recording", ("corpus", "path"))]
    return f"{len(found)} leaks"


def shard_plans(folder: Path, parts: list[Path], count: int) -> str:
    """Assign all utterances to shards of 500."""
    from flowse.data.shuffle import plan_shards

    copies: Any = {"train": 1, "dev": 1, "test": 1}
    plans = plan_shards(parts, folder / "plans", copies=copies, per_shard=500, max_s=20.0)
    return f"{len(plans):,} shards"


def stage_record(folder: Path, count: int) -> Path:
    """Write the record of a finished stage with a unit for every 500 utterances (its files empty)."""
    from pipelines.engine.accounts import StageReport, Tally
    from pipelines.engine.fingerprint import Identity
    from pipelines.engine.records import STAGE_RECORD, FileFacts, StageRecord, write_record

    stage = folder / "workspace" / "ingest" / "0123456789abcdef"
    stage.mkdir(parents=True)
    units = [f"corpus-{number:05d}" for number in range(count // PER_PART)]
    for unit in units:
        (stage / f"{unit}.parquet").touch()
    tally = Tally(count, 8.0 * count)
    record = StageRecord(
        stage="ingest",
        fingerprint=stage.name,
        identity=Identity("ingest", 1, 0, {}, {}),
        digest="0" * 64,
        report=StageReport(taken=tally, kept=tally),
        units=tuple(units),
        files={f"{unit}.parquet": FileFacts(0, "0" * 64) for unit in units},
        code_commit="x",
        versions={},
        seconds=1.0,
        finished_at="x",
    )
    write_record(stage / STAGE_RECORD, record)
    return stage


def status(folder: Path, parts: list[Path], count: int) -> str:
    """Read a stage's record, look for damage, write its line and explain it."""
    from pipelines.commands.explain import explanation
    from pipelines.commands.status import status_table
    from pipelines.engine.plan import StagePlan
    from pipelines.engine.workspace import open_stage

    stage = stage_record(folder, count)
    finished = open_stage(stage)
    assert finished is not None
    assert not finished.damaged()
    plan = StagePlan("ingest", "fresh", stage.name, stage, finished.record.identity, finished, ())
    assert status_table({"ingest": plan})
    assert explanation(plan)
    return f"{len(finished.parts('.parquet')):,} parts"


def rejects(folder: Path, parts: list[Path], count: int) -> str:
    """The report of rejects where a tenth of all was turned away."""
    from pipelines.commands.rejects import reject_report

    schema = schema_of(Reject)
    path = folder / "rejects.parquet"
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for begin in range(0, count // 10, BIG_PART):
            numbers = range(begin, min(begin + BIG_PART, count // 10))
            columns: dict[str, Any] = {
                "utt_id": [f"corpus/utt-{n:09d}" for n in numbers], "corpus": ["corpus"] * len(numbers),
                "stage": ["ingest"] * len(numbers), "kind": ["dropped"] * len(numbers),
                "reason": [("too_short", "silent")[n % 2] for n in numbers],
                "detail": [f"corpus/{n}.flac: 0.123 s, under 0.3 s" for n in numbers],
                "duration_s": [0.1] * len(numbers),
            }  # fmt: skip
            writer.write_table(pa.Table.from_arrays([pa.array(columns[name]) for name in schema.names], schema=schema))
    return f"{len(reject_report([path]))} lines"


def joined_rejects(folder: Path, parts: list[Path], count: int) -> str:
    """Join every unit's rejects into the stage's file, as the runner does when a stage ends."""
    from flowse.data.parquet import read_rows, write_rows

    rejects(folder, parts, count)
    write_rows(folder / "all.parquet", Reject, read_rows([folder / "rejects.parquet"], Reject))
    return f"{(folder / 'all.parquet').stat().st_size / 2**20:.1f} MiB"


TASKS: dict[str, Callable[[Path, list[Path], int], str]] = {
    "ingest: listing, repeated ids": listing,
    "ingest: recordings with the same bytes": duplicates,
    "leak check: speakers, recordings": leaks,
    "simulate: plan the shards": shard_plans,
    "status, explain": status,
    "reject report (a tenth rejected)": rejects,
    "runner: join rejects (a tenth)": joined_rejects,
}


def _alone(task: Callable[..., str], folder: Path, parts: list[Path], count: int, results: Any) -> None:
    begin = time.perf_counter()
    found = task(folder, parts, count)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # kB to GiB
    results.put((found, time.perf_counter() - begin, peak))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="500,000 rows")
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--only", default="", help="tasks whose name holds this")
    arguments = parser.parse_args()
    count = 500_000 if arguments.quick else arguments.rows
    context = multiprocessing.get_context("spawn")
    print(f"{describe()}\n{count:,} rows\n", flush=True)
    root = Path(tempfile.mkdtemp())
    try:
        writer = context.Process(target=write_parts, args=(root / "manifest", count))
        writer.start()
        writer.join()
        parts = sorted((root / "manifest").iterdir())
        lines = []
        for name, task in TASKS.items():
            if arguments.only not in name:
                continue
            folder = Path(tempfile.mkdtemp(dir=root))
            results = context.Queue()
            process = context.Process(target=_alone, args=(task, folder, parts, count, results))
            process.start()
            while process.is_alive() and results.empty():
                time.sleep(0.1)
            if results.empty():
                lines.append((name, "died", "", ""))
            else:
                found, seconds, peak = results.get()
                lines.append((name, f"{peak:.2f}", f"{seconds:.0f}", found))
            process.join()
            print("  ".join(lines[-1]), flush=True)
            shutil.rmtree(folder)
    finally:
        shutil.rmtree(root)
    print("\n" + table(("", "peak GiB", "seconds", "found"), lines) + "\ngoal: under 2 GiB a process")


if __name__ == "__main__":
    main()
