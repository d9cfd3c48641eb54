"""Scores of a Whisper checkpoint: language accuracy and error rates, through openai-whisper's own decoding."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import jiwer
import numpy as np
import soundfile
import soxr
import torch
import whisper

from flowse.seeding import derive_seed, generator
from flowse.whisper.config import PATIENCE, Decoding
from pipelines.corpora.demo import sentences, speech
from pipelines.pretrain.whisper.clips import HELD_OUT_VARIANTS, RATE, Audio, written


@dataclass(frozen=True)
class Example:
    """A recording at 16 kHz with its language and, where known, its text (else empty)."""

    audio: Audio
    language: str
    text: str


@dataclass(frozen=True)
class Score:
    """Results for one language.

    Attributes:
        clips: Number of recordings.
        right: Share whose language, the likeliest of all that Whisper has, is right.
        sided: Share that lands on its side of "English or Mandarin, or another language".
        errors: Word error rate, or character error rate where words are not written apart; None
            without texts.
    """

    clips: int
    right: float
    sided: float
    errors: float | None


def unseen(languages: Iterable[str], each: int, seed: int = 0) -> Iterator[Example]:
    """Yield sentences that no training clip says, in timbres that no training clip has."""
    for language in languages:
        for i in range(each):
            rng = generator(derive_seed(seed, "whisper", "score", language, i))
            while not sentences.is_held_out(text := sentences.sentence(language, rng)):
                pass
            variant = HELD_OUT_VARIANTS[int(rng.integers(len(HELD_OUT_VARIANTS)))]
            voice = speech.Voice(
                language, variant, int(rng.integers(35, 66)), int(rng.integers(135, 191)), int(rng.integers(35, 76))
            )
            audio = soxr.resample(speech.synthesise(text, voice), speech.SAMPLE_RATE, RATE)
            yield Example(audio, language, text)


def real(audio: Path, under: str = "dev/languages", limit: int | None = None) -> Iterator[Example]:
    """Yield the recordings of `audio/manifest.csv` whose path starts with `under`."""
    with (audio / "manifest.csv").open(newline="", encoding="utf-8") as lines:
        rows = [row for row in csv.DictReader(lines) if row["path"].startswith(under)]
    for row in rows[: limit or len(rows)]:
        samples, rate = soundfile.read(audio / row["path"], dtype="float32", always_2d=True)
        mono = np.ascontiguousarray(soxr.resample(samples.mean(axis=1), rate, RATE))
        yield Example(mono, row["language"], row["text"])


def error_rate(language: str, references: Sequence[str], heard: Sequence[str]) -> float:
    """Word error rate; character error rate for Mandarin and Japanese."""
    pairs = [(written(r, language), written(h, language)) for r, h in zip(references, heard, strict=True)]
    told, said = [r for r, _ in pairs], [h for _, h in pairs]
    rate: float = jiwer.cer(told, said) if language in ("zh", "ja") else jiwer.wer(told, said)
    return rate


def score(
    model: whisper.Whisper, examples: Iterable[Example], beams: int = Decoding.beam_size, sample_len: int | None = None
) -> dict[str, Score]:
    """Score a model by language, on windows of 30 s, with the language given.

    Args:
        model: Any multilingual Whisper.
        examples: What it hears; the first 30 s count.
        beams: Of the search; 1 is greedy.
        sample_len: Longest transcript in tokens; half of the model's positions if None, as everywhere in Whisper.
    """
    grouped: dict[str, list[Example]] = defaultdict(list)
    for example in examples:
        grouped[example.language].append(example)
    scores = {}
    for language, group in grouped.items():
        guesses: list[str] = []
        heard: list[str] = []
        options = whisper.DecodingOptions(
            language=language,
            without_timestamps=True,
            beam_size=beams if beams > 1 else None,
            patience=PATIENCE if beams > 1 else None,
            fp16=False,
            sample_len=sample_len,
        )
        for example in group:
            with torch.no_grad():
                features = model.embed_audio(whisper.log_mel_spectrogram(whisper.pad_or_trim(example.audio))[None])
            _, (probabilities,) = model.detect_language(features)
            guesses.append(max(probabilities, key=probabilities.__getitem__))
            heard.append(model.decode(features, options)[0].text)
        told = [i for i, example in enumerate(group) if written(example.text, language)]
        scores[language] = Score(
            clips=len(group),
            right=float(np.mean([guess == language for guess in guesses])),
            sided=float(np.mean([(guess in ("en", "zh")) == (language in ("en", "zh")) for guess in guesses])),
            errors=error_rate(language, [group[i].text for i in told], [heard[i] for i in told]) if told else None,
        )
    return scores


def table(scores: dict[str, Score]) -> str:
    """Lay scores out as a Markdown table."""
    lines = [
        "| language | clips | language right | en/zh or other right | WER (zh, ja: CER) |",
        "|---|---|---|---|---|",
    ]
    for language, s in sorted(scores.items()):
        errors = "" if s.errors is None else f"{100 * s.errors:.1f} %"
        lines.append(f"| {language} | {s.clips} | {100 * s.right:.0f} % | {100 * s.sided:.0f} % | {errors} |")
    clips = sum(s.clips for s in scores.values())
    right, sided = (sum(s.clips * getattr(s, name) for s in scores.values()) / clips for name in ("right", "sided"))
    lines.append(f"| all | {clips} | {100 * right:.1f} % | {100 * sided:.1f} % | |")
    return "\n".join(lines)
