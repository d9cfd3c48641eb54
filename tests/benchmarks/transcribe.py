"""How many hours an hour does batched transcription do against a loop over `whisper.transcribe`?

    python -m tests.benchmarks.transcribe [--quick] [--model whisper-tiny] [--files 64] [--threads 1] [--device cpu]

One model, temperature 0, the same recordings of mixed length (2 to 29 s, made by espeak-ng), read from FLAC files by
all sides. The loop is what a script would do, file by file: `whisper.transcribe` at temperature 0, without timestamps,
without fallbacks. It fills a window with zeros after the mel; `whisper.decode`, as openai-whisper's examples call it,
fills it with silence before, as the labeller does: texts are therefore compared with a loop over `whisper.decode` over
the same stretches. Processor time is hardly moved by other programs on the machine, wall time is.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import soundfile as sf
import torch

from flowse.data.audio_ahead import read_ahead
from flowse.data.manifest import Utterance
from flowse.whisper.config import BACKENDS, Decoding, WhisperConfig
from flowse.whisper.labeller import Labeller
from flowse.whisper.windows import SAMPLE_RATE
from pipelines.corpora.demo.sentences import sentence
from pipelines.corpora.demo.speech import SAMPLE_RATE as MADE_RATE
from pipelines.corpora.demo.speech import VARIANTS, Voice, synthesise
from tests.benchmarks.machine import describe, table


def make_files(folder: Path, count: int) -> list[Utterance]:
    """Write English speech of one to eight sentences a file: 2 to 29 s."""
    rng = np.random.default_rng(0)
    rows = []
    for number in range(count):
        voice = Voice("en", VARIANTS[int(rng.integers(len(VARIANTS)))], rate=int(rng.integers(140, 190)))
        pieces = [synthesise(sentence("en", rng), voice) for _ in range(int(rng.integers(1, 9)))]
        samples = np.concatenate(pieces)[: 29 * MADE_RATE]
        sf.write(folder / f"{number}.flac", samples, MADE_RATE)
        rows.append(Utterance(utt_id=f"x/{number}", corpus="x", kind="speech", path=f"{number}.flac", language="en",
                              duration_s=len(samples) / MADE_RATE))  # fmt: skip
    return rows


class Clock:
    """Adds up wall and processor time by what is being done; what is inside another counts there only."""

    def __init__(self) -> None:
        self.wall: dict[str, float] = defaultdict(float)

    @contextmanager
    def __call__(self, what: str) -> Iterator[None]:
        begin = time.perf_counter()
        try:
            yield
        finally:
            self.wall[what] += time.perf_counter() - begin

    def around(self, what: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function, timed."""

        def timed(*arguments: Any, **options: Any) -> Any:
            with self(what):
                result = function(*arguments, **options)
                if torch.cuda.is_available():
                    torch.cuda.synchronize()
            return result

        return timed


def loop(model: Any, folder: Path, rows: list[Utterance], half: bool) -> list[str]:
    """File by file, as a script would."""
    import whisper

    from flowse.audio.waveform import read_mono

    texts = []
    for row in rows:
        samples = read_mono(folder / row.path, SAMPLE_RATE)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = whisper.transcribe(model, samples, temperature=0.0, language="en", without_timestamps=True,
                                       condition_on_previous_text=False, fp16=half, compression_ratio_threshold=None,
                                       logprob_threshold=None, no_speech_threshold=None)  # fmt: skip
        texts.append(found["text"].strip())
    return texts


def decode_loop(labeller: Labeller, folder: Path, rows: list[Utterance], half: bool) -> list[str]:
    """File by file through `whisper.decode`, on the stretches that the labeller takes."""
    import whisper

    from flowse.audio.waveform import read_mono

    options = whisper.DecodingOptions(language="en", without_timestamps=True, fp16=half)
    texts = []
    for row in rows:
        pieces = labeller._pieces(0, read_mono(folder / row.path, SAMPLE_RATE))
        mels = [whisper.log_mel_spectrogram(whisper.pad_or_trim(piece.samples)) for piece in pieces]
        model = labeller.engine.model  # type: ignore[attr-defined]
        texts.append(" ".join(whisper.decode(model, mel.to(labeller.device), options).text for mel in mels).strip())
    return texts


def batched(labeller: Labeller, folder: Path, rows: list[Utterance]) -> list[str]:
    """As the stage does it."""
    texts = [""] * len(rows)
    for batch in read_ahead(rows, {"x": folder}):
        found = labeller.transcribe([block.waveform for block in batch], ["en"] * len(batch), Decoding(beam_size=1))
        for block, said in zip(batch, found, strict=True):
            texts[block.index] = said.text
    return texts


def shares(labeller: Labeller, folder: Path, rows: list[Utterance]) -> list[tuple[str, str]]:
    """Where the openai backend's time goes: a run with clocks around its parts."""
    import flowse.data.audio_ahead as ahead

    clock = Clock()
    model = labeller.engine.model  # type: ignore[attr-defined]
    kept = (ahead.read_mono, labeller._mel, model.encoder.forward, model.decoder.forward)
    ahead.read_mono = clock.around("decode audio (a thread of its own)", kept[0])
    labeller._mel = clock.around("mel", kept[1])  # type: ignore[method-assign]
    model.encoder.forward = clock.around("encoder", kept[2])
    model.decoder.forward = clock.around("decoder", kept[3])
    with clock("all"):
        batched(labeller, folder, rows)
    ahead.read_mono, labeller._mel, model.encoder.forward, model.decoder.forward = kept  # type: ignore[method-assign]
    total = clock.wall.pop("all")
    within = sum(seconds for what, seconds in clock.wall.items() if "thread" not in what)
    clock.wall["rest (gate, windows, sampling, joining)"] = total - within
    return [(what, f"{seconds / total:.0%}") for what, seconds in clock.wall.items()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="24 files, one round")
    parser.add_argument("--model", default="whisper-tiny")
    parser.add_argument("--files", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    count, rounds = (24, 1) if arguments.quick else (arguments.files, arguments.rounds)
    torch.set_num_threads(arguments.threads)
    import whisper

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = make_files(folder, count)
        audio_s = sum(row.duration_s for row in rows)
        print(f"{describe()}\n{count} files, {audio_s / 60:.1f} min, {arguments.threads} thread(s), "
              f"{arguments.model} on {arguments.device}, best of {rounds}\n")  # fmt: skip
        checkpoint = WhisperConfig(model=arguments.model).checkpoint() or arguments.model
        plain = whisper.load_model(str(checkpoint), arguments.device)
        sides: dict[str, Callable[[], list[str]]] = {
            "loop over whisper.transcribe": lambda: loop(plain, folder, rows, arguments.device == "cuda")
        }
        labellers = {"plain": Labeller(WhisperConfig(model=arguments.model), arguments.device)}
        by_decode = "loop over whisper.decode"
        sides[by_decode] = lambda: decode_loop(labellers["plain"], folder, rows, arguments.device == "cuda")
        for backend in BACKENDS:
            labellers[backend] = Labeller(WhisperConfig(model=arguments.model, backend=backend), arguments.device)
            sides[f"batched, {backend}"] = lambda backend=backend: batched(labellers[backend], folder, rows)
        coarse = WhisperConfig(model=arguments.model, backend="faster-whisper", compute="int8")
        labellers["int8"] = Labeller(coarse, arguments.device)
        sides["batched, faster-whisper, int8"] = lambda: batched(labellers["int8"], folder, rows)
        wall: dict[str, float] = {}
        cpu: dict[str, float] = {}
        texts: dict[str, list[str]] = {}
        for _ in range(rounds):
            for side, go in sides.items():
                begin, begin_cpu = time.perf_counter(), time.process_time()
                texts[side] = go()
                wall[side] = min(wall.get(side, 1e9), time.perf_counter() - begin)
                cpu[side] = min(cpu.get(side, 1e9), time.process_time() - begin_cpu)
        first = next(iter(sides))
        lines = []
        for side in sides:
            same = sum(map(str.__eq__, texts[side], texts[by_decode]))
            seconds = (f"{wall[side]:.1f}", f"{cpu[side]:.1f}", f"{audio_s / wall[side]:.1f}")
            ratios = (wall[first] / wall[side], cpu[first] / cpu[side], cpu[by_decode] / cpu[side])
            lines.append((side, *seconds, *(f"{ratio:.2f}" for ratio in ratios), f"{same}/{count}"))
        print(table(("", "wall s", "CPU s", "hours/h", "× wall", "× CPU", "× decode", "same text"), lines))
        print("\nwhere the openai backend's time goes")
        print(table(("", "share"), shares(labellers["openai"], folder, rows)))


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
