"""What a model is worth at 1 to 64 evaluations: a plain flow, with a better solver, and distilled. Prints a table.

    python tests/benchmarks/steps.py DATASET OUT [--dim 192] [--depth 4] [--flow-steps 2000] [--distil-steps 1000]
                                     [--recordings 20] [--whisper whisper-tiny] [--device cpu|cuda]

DATASET is a folder of shards, OUT takes the two trainings (a second call goes on where the first ended, or only
measures). Both are scored on the mixtures of split test by DNSMOS, the speaker's cosine, the distance of the log-mels
and, with `--whisper`, dWER. Time is processor seconds a second of sound, vocoder included.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from flowse.audio.mel import LogMel
from flowse.audio.vocoder import load_vocoder
from flowse.data.shards import IndexRow, Mixture, read_mixture
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
METHODS = {
    "plain flow, Euler": {},
    "plain flow, AB2": {"method": "ab2"},
    "plain flow, AB2 + EPSS": {"method": "ab2", "grid": "epss"},
    "distilled (M1)": {},
}


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
    return {name: distilled if "distilled" in name else flow for name in METHODS}


def score(
    enhancer: Enhancer, sampling: Sampling, test: list[tuple[IndexRow, Mixture]], scorer: Scorer
) -> dict[str, float]:
    """Return the mean scores of a model on the test mixtures."""
    log_mel, spent, distances, scores = LogMel(enhancer.spec.mel), 0.0, [], list[Score]()
    for row, mixture in test:
        before = time.process_time()
        enhanced = enhancer.enhance(mixture.noisy, mixture.sample_rate, sampling=sampling)
        spent += time.process_time() - before
        mels = [log_mel(torch.from_numpy(samples)[None]) for samples in (enhanced, mixture.clean)]
        distances.append(float((mels[0] - mels[1]).abs().mean()))
        item = Item(key=row.key, test_set="simulated", seconds=row.seconds, language=row.language, text=row.text)
        signals = {"noisy": mixture.noisy, "enhanced": enhanced, "clean": mixture.clean}
        found = scorer([Take(item=item, signals=signals, sample_rate=mixture.sample_rate)])
        scores += [score for score in found if score.signal == "enhanced"]
    tokens = sum(score.tokens_clean or 0 for score in scores)
    return {
        "evaluations": enhancer.evaluations,
        "OVRL": float(np.mean([score.ovrl for score in scores])),
        "P808": float(np.mean([score.p808 for score in scores])),
        "speaker": float(np.mean([score.speaker_cosine for score in scores if score.speaker_cosine is not None])),
        "log-mel": float(np.mean(distances)),
        "dWER": sum(score.errors_clean or 0 for score in scores) / tokens if tokens else float("nan"),
        "time": spent / sum(row.seconds for row, _ in test),
    }


def rows(arguments: argparse.Namespace) -> Iterator[str]:
    """Yield the lines of the table."""
    models = trainings(arguments)
    recogniser: Recogniser | None = None
    if arguments.whisper:
        from flowse.whisper.config import WhisperConfig
        from flowse.whisper.labeller import Labeller

        recogniser = Labeller(WhisperConfig(model=arguments.whisper), arguments.device)
    scorer = Scorer(Dnsmos(), recogniser, SpeakerEncoder(onnx_file("speaker-small")))
    chosen = split_rows(arguments.dataset, "test")[: arguments.recordings]
    test = [(row, read_mixture(arguments.dataset, row)) for row in chosen]
    names = ("evaluations", "OVRL", "P808", "speaker", "log-mel", "dWER", "time")
    yield "| method | " + " | ".join(names) + " |"
    yield "| --- |" + " --: |" * len(names)
    for name, settings in METHODS.items():
        for steps in EVALUATIONS:
            found = score(models[name], Sampling(steps=steps, **settings), test, scorer)
            yield f"| {name} | {found.pop('evaluations')} | " + " | ".join(f"{v:.3f}" for v in found.values()) + " |"


def main() -> None:
    """Train what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("out", type=Path)
    for name, default in (("dim", 192), ("depth", 4), ("flow-steps", 2000), ("distil-steps", 1000), ("recordings", 20)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--whisper", default="")
    parser.add_argument("--device", default="cpu")
    for line in rows(parser.parse_args()):
        print(line, flush=True)


if __name__ == "__main__":
    main()
