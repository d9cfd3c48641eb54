"""What a model is worth at 1 to 64 evaluations: a plain flow, with a better solver, distilled, refined. Prints a table.

    python -m tests.benchmarks.steps DATASET OUT [--dim 192] [--depth 4] [--flow-steps 2000] [--distil-steps 1000]
    python -m tests.benchmarks.steps FOLDER --flow MODEL --distilled MODEL --refined MODEL
                                     [--recordings 20] [--whisper whisper-tiny] [--device cpu|cuda]

DATASET is a folder of shards, OUT takes the two trainings (a second call goes on where the first ended, or only
measures); both models are scored on the mixtures of split test. FOLDER holds noisy/ and clean/ with recordings of equal
names, and the models are those that `python -m pipelines.pretrain.fewstep` wrote. Scores: DNSMOS, the speaker's cosine,
the distance of the log-mels and, with `--whisper`, dWER. Time is processor seconds a second of sound, synthesis
included.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from flowse.audio.mel import LogMel
from flowse.audio.vocoder import load_vocoder
from flowse.audio.waveform import read, resample, to_mono
from flowse.data.shards import read_mixture
from flowse.enhancer import Enhancer
from flowse.flow.sampling import Sampling
from flowse.metrics.dnsmos import Dnsmos
from flowse.metrics.scores import Score
from flowse.metrics.scoring import Recogniser, Scorer, Take
from flowse.metrics.speaker import SpeakerEncoder, onnx_file
from flowse.metrics.testsets import Item
from flowse.model.spec import DiTConfig
from flowse.pretrained import resolve
from flowse.training.config import LoopConfig, OptimConfig, TrainConfig
from flowse.training.mixtures import split_rows
from flowse.training.run import train

EVALUATIONS = (1, 2, 4, 8, 32, 64)
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "plain flow, Euler": ("flow", {}),
    "plain flow, AB2": ("flow", {"method": "ab2"}),
    "plain flow, AB2 + EPSS": ("flow", {"method": "ab2", "grid": "epss"}),
    "distilled (M1)": ("distilled", {}),
    "refined (M2)": ("refined", {}),
}
"""What is scored, with which of the models, by which solver."""


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


def of_folder(folder: Path, count: int) -> list[Recording]:
    """Read recordings of noisy/ and clean/."""
    found = []
    for path in sorted((folder / "noisy").iterdir())[:count]:
        (noisy, rate), (clean, _) = (read(of) for of in (path, folder / "clean" / path.name))
        noisy, clean = to_mono(noisy), to_mono(clean)
        length = min(len(noisy), len(clean))
        found.append(Recording(path.name, noisy[:length], clean[:length], rate))
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
    named = {name: getattr(arguments, name) for name in ("flow", "distilled", "refined")}
    return {name: Enhancer.from_pretrained(path, arguments.device) for name, path in named.items() if path}


def score(enhancer: Enhancer, sampling: Sampling, test: list[Recording], scorer: Scorer) -> dict[str, float]:
    """Return the mean scores of a model on the test recordings."""
    log_mel, spent, distances, scores = LogMel(enhancer.spec.mel), 0.0, [], list[Score]()
    for recording in test:
        rate = recording.sample_rate
        before = time.process_time()
        enhanced = enhancer.enhance(recording.noisy, rate, sampling=sampling)
        spent += time.process_time() - before
        own = [resample(samples, rate, enhancer.spec.mel.sample_rate) for samples in (enhanced, recording.clean)]
        mels = [log_mel(torch.from_numpy(samples)[None]) for samples in own]
        distances.append(float((mels[0] - mels[1]).abs().mean()))
        item = Item(
            key=recording.key,
            test_set="steps",
            seconds=recording.seconds,
            language=recording.language,
            text=recording.text,
        )
        signals = {"noisy": recording.noisy, "enhanced": enhanced, "clean": recording.clean}
        found = scorer([Take(item=item, signals=signals, sample_rate=rate)])
        scores += [score for score in found if score.signal == "enhanced"]
    tokens = sum(score.tokens_clean or 0 for score in scores)
    return {
        "evaluations": enhancer.evaluations,
        "OVRL": float(np.mean([score.ovrl for score in scores])),
        "P808": float(np.mean([score.p808 for score in scores])),
        "speaker": float(np.mean([score.speaker_cosine for score in scores if score.speaker_cosine is not None])),
        "log-mel": float(np.mean(distances)),
        "dWER": sum(score.errors_clean or 0 for score in scores) / tokens if tokens else float("nan"),
        "time": spent / sum(recording.seconds for recording in test),
    }


def rows(arguments: argparse.Namespace) -> Iterator[str]:
    """Yield the lines of the table."""
    folder = (arguments.dataset / "noisy").is_dir()
    models = given(arguments) if folder else trainings(arguments)
    test = (of_folder if folder else of_split)(arguments.dataset, arguments.recordings)
    recogniser: Recogniser | None = None
    if arguments.whisper:
        from flowse.whisper.config import WhisperConfig
        from flowse.whisper.labeller import Labeller

        recogniser = Labeller(WhisperConfig(model=arguments.whisper), arguments.device)
    scorer = Scorer(Dnsmos(), recogniser, SpeakerEncoder(onnx_file("speaker-small")))
    names = ("evaluations", "OVRL", "P808", "speaker", "log-mel", "dWER", "time")
    yield "| method | " + " | ".join(names) + " |"
    yield "| --- |" + " --: |" * len(names)
    for name, (model, settings) in METHODS.items():
        for steps in EVALUATIONS if model in models else ():
            sampling = dataclasses.replace(models[model].sampling, steps=steps, **settings)
            found = score(models[model], sampling, test, scorer)
            yield f"| {name} | {found.pop('evaluations')} | " + " | ".join(f"{v:.3f}" for v in found.values()) + " |"


def main() -> None:
    """Train what is missing, or load what is named, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("out", type=Path, nargs="?", help="of the trainings; none for a FOLDER")
    for name in ("flow", "distilled", "refined"):
        parser.add_argument(f"--{name}", default="", metavar="MODEL")
    for name, default in (("dim", 192), ("depth", 4), ("flow-steps", 2000), ("distil-steps", 1000), ("recordings", 20)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--whisper", default="")
    parser.add_argument("--device", default="cpu")
    for line in rows(parser.parse_args()):
        print(line, flush=True)


if __name__ == "__main__":
    main()
