"""What a model is worth at 1 to 64 evaluations: a plain flow, with a better solver, distilled, refined. Prints a table.

    python -m tests.benchmarks.steps DATASET OUT [--dim 192] [--depth 4] [--flow-steps 2000] [--distil-steps 1000]
    python -m tests.benchmarks.steps FOLDER --flow MODEL --distilled MODEL --refined MODEL --both MODEL
                                     --regression MODEL [--recordings 20] [--evaluations 1 2 4] [--whisper DIR]

DATASET is a folder of shards, OUT takes the two trainings (a second call goes on where the first ended, or only
measures); both models are scored on the mixtures of split test. FOLDER holds noisy/ and clean/ with recordings of equal
names, and the models are those that `python -m pipelines.pretrain.fewstep` wrote: a plain flow, its distillation, the
refinement of a mask, the distillation of that ("both"), and a regression of the same size; a manifest.csv (path,
language) says what is spoken. Scores: DNSMOS, the speaker's cosine, the distance of the log-mels and, with `--whisper`,
dWER (a CTranslate2 folder, or what openai-whisper reads).
Time is processor seconds a second of sound, synthesis included. A refinement is scored without its guard, and then
with the guard that is stored with it; 0 evaluations of the flow are the mask alone.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from flowse.audio.mel import LogMel
from flowse.audio.mel_config import MelConfig
from flowse.audio.vocoder import load_vocoder
from flowse.audio.waveform import read, resample, to_mono
from flowse.data.shards import read_mixture
from flowse.enhancer import Enhancer
from flowse.flow.sampling import Sampling
from flowse.metrics.dnsmos import Dnsmos
from flowse.metrics.speaker import SpeakerEncoder, cosine, onnx_file
from flowse.metrics.wer import token_errors
from flowse.model.spec import PRECISIONS, DiTConfig
from flowse.pretrained import resolve
from flowse.training.config import LoopConfig, OptimConfig, TrainConfig
from flowse.training.mixtures import split_rows
from flowse.training.run import train
from flowse.whisper.config import WhisperConfig
from flowse.whisper.labeller import Labeller
from flowse.whisper.windows import SAMPLE_RATE

MODELS = ("flow", "distilled", "refined", "both", "regression")
EVALUATIONS = (1, 2, 4, 8, 32, 64)
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "plain flow, Euler": ("flow", {}),
    "plain flow, AB2 + EPSS": ("flow", {"method": "ab2", "grid": "epss"}),
    "distilled (M1)": ("distilled", {}),
    "refined (M2)": ("refined", {"guard": 1.0}),
    "refined and distilled (M1 on M2)": ("both", {"guard": 1.0}),
}
"""What is scored, with which of the models, by which solver."""
ONCE: dict[str, tuple[str, dict[str, Any]]] = {
    "regression": ("regression", {"steps": 1}),
    "the mask that M2 refines": ("refined", {"steps": 0}),
    "refined (M2), with its guard": ("refined", {}),
    "M1 on M2, with its guard": ("both", {}),
}
"""What is scored at one number of steps: the model's own, where none is given."""


@dataclass(frozen=True)
class Recording:
    """A noisy recording with its clean version, of one rate and length."""

    key: str
    noisy: np.ndarray
    clean: np.ndarray
    sample_rate: int
    language: str = ""
    text: str = ""

    @property
    def seconds(self) -> float:
        """Its length."""
        return len(self.noisy) / self.sample_rate


def of_split(dataset: Path, count: int) -> list[Recording]:
    """Read mixtures of split test."""
    found = []
    for row in split_rows(dataset, "test")[:count]:
        mixture = read_mixture(dataset, row)
        found.append(Recording(row.key, mixture.noisy, mixture.clean, mixture.sample_rate, row.language, row.text))
    return found


def of_folder(folder: Path, count: int, language: str) -> list[Recording]:
    """Read recordings of noisy/ and clean/; what manifest.csv does not name is in the given language."""
    found, languages = [], {}
    if (folder / "manifest.csv").is_file():
        with (folder / "manifest.csv").open(encoding="utf-8", newline="") as file:
            languages = {Path(row["path"]).name: row["language"] for row in csv.DictReader(file)}
    for path in sorted((folder / "noisy").iterdir())[:count]:
        (noisy, rate), (clean, _) = (read(of) for of in (path, folder / "clean" / path.name))
        noisy, clean = to_mono(noisy), to_mono(clean)
        length = min(len(noisy), len(clean))
        found.append(Recording(path.name, noisy[:length], clean[:length], rate, languages.get(path.name, language)))
    return found


def trainings(arguments: argparse.Namespace) -> dict[str, Enhancer]:
    """Train the flow and its distillation as far as they are not trained yet."""
    vocoder = load_vocoder(resolve("vocos-mel-24khz-small"), arguments.device)

    def trained(name: str, steps: int, lr: float, **settings: object) -> Enhancer:
        every = max(1, steps // 10)
        intervals = LoopConfig(max_steps=steps, log_every=every, validate_every=every, checkpoint_every=every)
        config = TrainConfig(
            **{**vars(intervals), **settings},
            model=DiTConfig(dim=arguments.dim, depth=arguments.depth, qk_norm=True),
            optim=OptimConfig(lr=lr),
            select="last",
            examples=0,
        )
        found = train(config, arguments.dataset, arguments.out / name, device=arguments.device, report=print)
        return Enhancer(found.system(arguments.device), found.spec, vocoder)

    flow = trained("flow", arguments.flow_steps, 5e-4)
    start = str(arguments.out / "flow")
    distilled = trained("distilled", arguments.distil_steps, 1e-4, objective="distil", init_from=start)
    return {"flow": flow, "distilled": distilled}


def given(arguments: argparse.Namespace) -> dict[str, Enhancer]:
    """Load the models that the command line names."""
    named = {name: getattr(arguments, name) for name in MODELS}
    return {
        name: Enhancer.from_pretrained(path, arguments.device, None, arguments.precision)
        for name, path in named.items()
        if path
    }


class Judge:
    """Compares what is made of the test recordings with their clean versions, which are heard once.

    Args:
        test: The recordings.
        whisper: Recogniser for word errors; empty: none are counted.
        device: Where it runs.
    """

    def __init__(self, test: Sequence[Recording], whisper: str, device: str) -> None:
        self.test, self.quality = test, Dnsmos(torch.get_num_threads())
        self.speaker = SpeakerEncoder(onnx_file("speaker-small"))
        self.voices = [self.speaker.embed(recording.clean, recording.sample_rate) for recording in test]
        self.log_mel = LogMel(MelConfig())
        self.recogniser: Labeller | None = None
        if whisper:
            config = WhisperConfig(model=whisper)
            if (Path(whisper) / "model.bin").is_file():
                config = WhisperConfig(model=whisper, backend="faster-whisper", compute="int8")
            self.recogniser = Labeller(config, device)
        self.heard = self._heard([recording.clean for recording in test])

    def __call__(self, signals: Sequence[np.ndarray]) -> dict[str, float]:
        """Return the mean scores of a version of every recording."""
        scores, voices, distances = [], [], []
        for recording, own, samples in zip(self.test, self.voices, signals, strict=True):
            scores.append(self.quality(samples, recording.sample_rate))
            voices.append(cosine(own, self.speaker.embed(samples, recording.sample_rate)))
            mels = [self._mel(waveform, recording.sample_rate) for waveform in (samples, recording.clean)]
            distances.append(float((mels[0] - mels[1]).abs().mean()))
        errors = [
            token_errors(reference, heard, recording.language)
            for reference, heard, recording in zip(self.heard, self._heard(signals), self.test, strict=True)
        ]
        tokens = sum(error.length for error in errors)
        return {
            "OVRL": float(np.mean([score.ovrl for score in scores])),
            "P808": float(np.mean([score.p808 for score in scores])),
            "speaker": float(np.mean(voices)),
            "log-mel": float(np.mean(distances)),
            "dWER": sum(error.count for error in errors) / tokens if tokens else float("nan"),
        }

    def _heard(self, signals: Sequence[np.ndarray]) -> list[str]:
        if self.recogniser is None:
            return [""] * len(signals)
        pairs = list(zip(signals, self.test, strict=True))
        known = [
            recording.language if recording.language in self.recogniser.languages else None for recording in self.test
        ]
        heard = self.recogniser.transcribe([resample(of, test.sample_rate, SAMPLE_RATE) for of, test in pairs], known)
        return [transcript.text.strip() for transcript in heard]

    def _mel(self, samples: np.ndarray, rate: int) -> torch.Tensor:
        mel: torch.Tensor = self.log_mel(torch.from_numpy(resample(samples, rate, MelConfig().sample_rate))[None])
        return mel


def enhanced(enhancer: Enhancer, sampling: Sampling, test: Sequence[Recording]) -> tuple[list[np.ndarray], float]:
    """Enhance the test recordings; returns them and the processor seconds a second of sound."""
    before = time.process_time()
    made = [enhancer.enhance(recording.noisy, recording.sample_rate, sampling=sampling) for recording in test]
    return made, (time.process_time() - before) / sum(recording.seconds for recording in test)


def asked(models: Mapping[str, Enhancer], evaluations: Sequence[int]) -> Iterator[tuple[str, Enhancer, Sampling]]:
    """Yield what is to be scored: its name, the model and how it is sampled."""
    for name, (model, settings) in METHODS.items():
        for steps in evaluations if model in models else ():
            yield name, models[model], dataclasses.replace(models[model].sampling, steps=steps, **settings)
    for name, (model, settings) in ONCE.items():
        if model in models:
            yield name, models[model], dataclasses.replace(models[model].sampling, **settings)


def rows(arguments: argparse.Namespace) -> Iterator[str]:
    """Yield the lines of the table."""
    folder = (arguments.dataset / "noisy").is_dir()
    models = given(arguments) if folder else trainings(arguments)
    if folder:
        test = of_folder(arguments.dataset, arguments.recordings, arguments.language)
    else:
        test = of_split(arguments.dataset, arguments.recordings)
    judge = Judge(test, arguments.whisper, arguments.device)
    names = ("OVRL", "P808", "speaker", "log-mel", "dWER", "time")
    yield "| method | evaluations | " + " | ".join(names) + " |"
    yield "| --- |" + " --: |" * (1 + len(names))

    def row(name: str, evaluations: str, found: Mapping[str, float]) -> str:
        values = " | ".join("–" if math.isnan(value) else f"{value:.3f}" for value in found.values())
        return f"| {name} | {evaluations} | {values} |"

    for name in () if arguments.bare else ("noisy", "clean"):
        signals = [getattr(recording, name) for recording in test]
        yield row(name, "–", judge(signals) | {"time": math.nan})
    for name, enhancer, sampling in asked(models, arguments.evaluations):
        signals, spent = enhanced(enhancer, sampling, test)
        yield row(name, str(enhancer.evaluations), judge(signals) | {"time": spent})


def main() -> None:
    """Train what is missing, or load what is named, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("out", type=Path, nargs="?", help="of the trainings; none for a FOLDER")
    for name in MODELS:
        parser.add_argument(f"--{name}", default="", metavar="MODEL")
    for name, default in (("dim", 192), ("depth", 4), ("flow-steps", 2000), ("distil-steps", 1000), ("recordings", 20)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--evaluations", type=int, nargs="+", default=EVALUATIONS)
    parser.add_argument("--bare", action="store_true", help="no rows of the noisy and the clean recordings")
    parser.add_argument("--precision", default="fp32", choices=PRECISIONS)
    parser.add_argument("--language", default="", help="spoken in FOLDER (default: it is detected)")
    parser.add_argument("--whisper", default="", metavar="DIR")
    parser.add_argument("--device", default="cpu")
    for line in rows(parser.parse_args()):
        print(line, flush=True)


if __name__ == "__main__":
    main()
