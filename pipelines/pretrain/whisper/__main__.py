"""Command line of the recipe: `python -m pipelines.pretrain.whisper --help`."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from pipelines.pretrain.whisper.batches import Corpus
from pipelines.pretrain.whisper.training import Recipe, Trainer

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path)
    parser.add_argument("--steps", type=int, default=6500)
    parser.add_argument("--threads", type=int, default=2)
    a = parser.parse_args()
    torch.set_num_threads(a.threads)
    corpus = Corpus(a.out / "clips")
    trainer = Trainer(Recipe(steps=a.steps), corpus, a.out)
    print("resumed" if trainer.resume() else "new", trainer.step, len(corpus.clips), corpus.vocabulary.size, sum(p.numel() for p in trainer.student.parameters()), flush=True)
    trainer.run(report=lambda s, f: print(s, " ".join(f"{k} {v:.3f}" for k, v in f.items()), flush=True))
