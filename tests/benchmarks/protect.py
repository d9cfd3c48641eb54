"""What does leaving some of the input in cost a listener, and give a recogniser? Takes minutes.

    python -m tests.benchmarks.protect PAIRS [--whisper MODEL] [--manifest CSV] [--shares 0.1 0.2 0.45 0.7]

PAIRS holds noisy/ and clean/ and a manifest.csv of texts and languages, as `python -m pipelines.pretrain.mask testset`
writes them. Every recording is enhanced once; constant shares of the input are mixed in, and what `--protect` chooses.
Words unlike the clean recording's are counted up to the number of its words, so that one loop does not hide the rest.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from flowse.audio.protection import PROTECTIONS
from flowse.audio.waveform import probe, read_mono
from flowse.enhancer import Enhancer
from flowse.metrics.dnsmos import Dnsmos, DnsmosScore
from flowse.metrics.scores import Score
from flowse.metrics.scoring import RecordingVersions, Scorer
from flowse.metrics.testsets import Item
from flowse.whisper.labeller import Labeller
from flowse.whisper.transcript import Transcript
from pipelines.pretrain.flowse_score import Pair, find_pairs, whisper_config
from tests.benchmarks.machine import table


@dataclass(frozen=True)
class Versions:
    """A pair, and what was made of it under each protection."""

    pair: Pair
    rate: int
    noisy: np.ndarray
    clean: np.ndarray
    made: Mapping[str, np.ndarray]


class Once:
    """A recogniser and an opinion that judge the same samples once."""

    def __init__(self, labeller: Labeller | None, opinion: Dnsmos) -> None:
        self._labeller, self._opinion = labeller, opinion
        self._heard: dict[tuple[bytes, str | None], Transcript] = {}
        self._opinions: dict[bytes, DnsmosScore] = {}

    @property
    def languages(self) -> Sequence[str]:
        return self._labeller.languages if self._labeller else ()

    def transcribe(self, waveforms: Sequence[np.ndarray], languages: Sequence[str | None]) -> list[Transcript]:
        assert self._labeller is not None
        keys = [(digest(waveform), language) for waveform, language in zip(waveforms, languages, strict=True)]
        new = {key: waveform for key, waveform in zip(keys, waveforms, strict=True) if key not in self._heard}
        found = self._labeller.transcribe(list(new.values()), [language for _, language in new])
        self._heard |= zip(new, found, strict=True)
        return [self._heard[key] for key in keys]

    def __call__(self, samples: np.ndarray, rate: int) -> DnsmosScore:
        key = digest(samples)
        if key not in self._opinions:
            self._opinions[key] = self._opinion(samples, rate)
        return self._opinions[key]


def digest(samples: np.ndarray) -> bytes:
    return hashlib.blake2b(samples.tobytes()).digest()


def versions(pair: Pair, enhancer: Enhancer) -> Versions:
    rate = probe(pair.noisy).sample_rate
    noisy, clean = (read_mono(path, rate) for path in (pair.noisy, pair.clean))
    length = min(len(noisy), len(clean))
    noisy, clean = noisy[:length], clean[:length]
    made = {
        protect: enhancer.enhance(noisy, rate, sampling=replace(enhancer.sampling, protect=protect))
        for protect in PROTECTIONS
    }
    return Versions(pair, rate, noisy, clean, made)


def mixed(of: Versions, what: str) -> np.ndarray:
    """Return a protection's result, or the enhanced recording with a constant share of the input."""
    if what in of.made:
        return of.made[what]
    return np.asarray(of.made["none"] + float(what) * (of.noisy - of.made["none"]), np.float32)


def scored(scorer: Scorer, found: Sequence[Versions], what: str) -> list[Score]:
    """Score one choice."""
    takes = [
        RecordingVersions(
            signals={"noisy": mixed(of, what), "clean": of.clean},
            sample_rate=of.rate,
            item=Item(
                key=of.pair.name, test_set="pairs", seconds=len(of.noisy) / of.rate,
                language=of.pair.language, text=of.pair.text,
            ),
        )
        for of in found
    ]  # fmt: skip
    return [score for score in scorer(takes) if score.signal == "noisy"]


def row(what: str, scores: Sequence[Score], before: Sequence[Score]) -> list[str]:
    def mean(name: str, digits: int) -> str:
        return f"{np.mean([getattr(score, name) for score in scores]):.{digits}f}"

    def rate(errors: str, tokens: str, most: bool) -> str:
        pairs = [(getattr(score, errors) or 0, getattr(score, tokens) or 0) for score in scores]
        total = sum(length for _, length in pairs)
        wrong = sum(min(count, length) if most else count for count, length in pairs)
        return f"{wrong / total:.3f}" if total else ""

    gains = [score.ovrl - noisy.ovrl for score, noisy in zip(scores, before, strict=True)]
    return [
        what, mean("ovrl", 2), mean("sig", 2), mean("bak", 2), mean("estoi", 3),
        rate("errors", "tokens", False), rate("errors_clean", "tokens_clean", True), f"{min(gains):+.2f}",
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs", type=Path)
    parser.add_argument("--whisper", default="", help="recogniser: an embedded name, or a CTranslate2 folder")
    parser.add_argument("--manifest", type=Path, help="texts and languages (default: PAIRS/manifest.csv)")
    parser.add_argument("--model", default="flowse-small")
    parser.add_argument("--shares", nargs="+", default=["0.1", "0.2", "0.45", "0.7"])
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    enhancer = Enhancer.from_pretrained(arguments.model)
    manifest = arguments.manifest or arguments.pairs / "manifest.csv"
    found = [versions(pair, enhancer) for pair in find_pairs(arguments.pairs, manifest)]
    labeller = Labeller(whisper_config(arguments.whisper)) if arguments.whisper else None
    once = Once(labeller, Dnsmos(arguments.threads))
    scorer = Scorer(once, once if labeller else None)
    before = scored(scorer, found, "1")
    rows = [row("the input", before, before)]
    for what in ("none", *arguments.shares, "listening", "asr"):
        rows.append(row(what, scored(scorer, found, what), before))
        print("  ".join(rows[-1]), flush=True)
    heads = ("input left in", "OVRL", "SIG", "BAK", "ESTOI", "WER", "words unlike the clean one's", "least gain")
    print(table(heads, rows))


if __name__ == "__main__":
    main()
