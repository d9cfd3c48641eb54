"""How long does a GPU wait for audio, if its worker decodes for itself, and if others decode ahead of it?

    python -m tests.benchmarks.decode [--files 240] [--seconds 20] [--share 2.0] [--decoders 1 2 4]

Speech in Opus files is read as filter_language and transcribe read it. In the place of the GPU stands a pause: the
worker sleeps as long as a GPU that labels `--share` times as fast as one core decodes would take, and takes no core
meanwhile. Printed is the share of the time in which this GPU works. It needs idle cores, as many as the most decoders:
on a machine that is busy, decoders only take the cores of one another.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import ray
import soundfile as sf

from flowse.data.audio_ahead import BATCH_S, Reader, read_ahead, read_piece
from flowse.data.manifest import Utterance
from flowse.whisper.windows import SAMPLE_RATE
from pipelines.corpora.demo.sentences import sentence
from pipelines.corpora.demo.speech import SAMPLE_RATE as MADE_RATE
from pipelines.corpora.demo.speech import VARIANTS, Voice, synthesise
from pipelines.engine.decoders import Decoders
from tests.benchmarks.machine import describe, table


def make_files(folder: Path, count: int, seconds: float) -> list[Utterance]:
    """Write made-up speech as Opus at 48 kHz: the same few sentences in another order in every file."""
    rng = np.random.default_rng(0)
    voices = [Voice("en", VARIANTS[index % len(VARIANTS)], rate=160) for index in range(8)]
    spoken = [np.repeat(synthesise(sentence("en", rng), voice), 48_000 // MADE_RATE) for voice in voices]
    rows = []
    for number in range(count):
        order = np.concatenate([spoken[index] for index in rng.integers(len(spoken), size=int(seconds))])
        samples = order[: round(seconds * 48_000)]
        sf.write(folder / f"{number}.opus", samples, 48_000, format="OGG", subtype="OPUS")
        rows.append(Utterance(utt_id=f"x/{number}", corpus="x", kind="speech", path=f"{number}.opus", language="en",
                              duration_s=len(samples) / 48_000))  # fmt: skip
    return rows


@ray.remote(num_cpus=0)
class Gpu:
    """A worker whose labelling is a pause."""

    def work(self, reader: Reader, rows: list[Utterance], folder: Path, speed: float) -> tuple[float, float]:
        """Return how long it took, and how much of that was labelling, in seconds."""
        begin, paused = time.perf_counter(), 0.0
        for batch in reader(rows, {"x": folder}):
            pause = sum(len(block.waveform) for block in batch) / SAMPLE_RATE / speed
            time.sleep(pause)
            paused += pause
        return time.perf_counter() - begin, paused


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=240)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--share", type=float, default=2.0)
    parser.add_argument("--decoders", type=int, nargs="*", default=[1, 2, 4])
    arguments = parser.parse_args()
    print(describe())
    with tempfile.TemporaryDirectory(prefix="flowse-decode-") as temporary:
        folder = Path(temporary)
        rows = make_files(folder, arguments.files, arguments.seconds)
        audio_s = sum(row.duration_s for row in rows)
        begin, begun = time.perf_counter(), time.process_time()
        read_piece(rows[:40], {"x": folder})
        some_s = sum(row.duration_s for row in rows[:40])
        wall, busy = some_s / (time.perf_counter() - begin), some_s / (time.process_time() - begun)
        print(
            f"{audio_s / 60:.0f} min of Opus; a core decodes {busy:,.0f} × real time (now, among others, {wall:,.0f} ×)"
        )
        speed = arguments.share * wall
        most = max(arguments.decoders, default=1)
        ray.init(address="local", num_cpus=most, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        gpu = Gpu.remote()  # type: ignore[attr-defined]
        readers: list[tuple[str, Reader]] = [("the worker itself, one batch ahead", read_ahead)]
        readers += [(f"{count} decoder(s)", Decoders.of(count, {"x": folder}, folder)) for count in arguments.decoders]
        lines = []
        for name, reader in readers:
            for piece in (rows[:8], rows):  # the first starts processes and imports
                took, paused = ray.get(gpu.work.remote(reader, piece, folder, speed))
            lines.append([name, f"{took:.1f} s", f"{paused:.1f} s", f"{paused / took:.0%}"])
        ray.shutdown()
    print(f"a GPU that labels {speed:,.0f} times real time; batches of {BATCH_S / 60:.0f} min")
    print(table(["audio is decoded by", "wall", "GPU works", "share"], lines))


if __name__ == "__main__":
    main()
