"""Scores of a Whisper checkpoint: language accuracy and error rates with openai-whisper's decoding."""

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
from pipelines.pretrain.whisper.clips import HELD_OUT_VARIANTS, RATE, Audio, plain_spelling


@dataclass(frozen=True)
class Example:
    """A recording at 16 kHz with its language and its text, which is empty if unknown."""

    audio: Audio
    language: str
    text: str


@dataclass(frozen=True)
class Score:
    """The scores of a language.

    Attributes:
        clips: Number of recordings.
        language_accuracy: Share of recordings whose most probable language, of all that Whisper has, is right.
        filter_accuracy: Share of recordings that are rightly taken for English or Mandarin, or for neither.
        error_rate: Word error rate, or character error rate for languages without spaces; None without texts.
    """

    clips: int
    language_accuracy: float
    filter_accuracy: float
    error_rate: float | None


def unseen(languages: Iterable[str], each: int, seed: int = 0) -> Iterator[Example]:
    """Yield `each` sentences of every language that no training clip says, in timbres that no training clip has."""
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


def error_rate(language: str, references: Sequence[str], transcripts: Sequence[str]) -> float:
    """Return the word error rate, or the character error rate for Mandarin and Japanese."""
    pairs = [
        (plain_spelling(r, language), plain_spelling(h, language)) for r, h in zip(references, transcripts, strict=True)
    ]
    expected, found = [reference for reference, _ in pairs], [transcript for _, transcript in pairs]
    rate: float = jiwer.cer(expected, found) if language in ("zh", "ja") else jiwer.wer(expected, found)
    return rate


def score(
    model: whisper.Whisper, examples: Iterable[Example], beams: int = Decoding.beam_size, sample_len: int | None = None
) -> dict[str, Score]:
    """Score a model by language, on windows of 30 s; the decoder is given the right language.

    Args:
        model: Any multilingual Whisper.
        examples: Recordings; only their first 30 s count.
        beams: Number of beams; 1 is greedy decoding.
        sample_len: Longest transcript in tokens; None: half of the model's positions, as usual in Whisper.
    """
    grouped: dict[str, list[Example]] = defaultdict(list)
    for example in examples:
        grouped[example.language].append(example)
    scores = {}
    for language, group in grouped.items():
        guesses: list[str] = []
        transcripts: list[str] = []
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
            transcripts.append(model.decode(features, options)[0].text)
        with_text = [i for i, example in enumerate(group) if plain_spelling(example.text, language)]
        scores[language] = Score(
            clips=len(group),
            language_accuracy=float(np.mean([guess == language for guess in guesses])),
            filter_accuracy=float(
                np.mean([(guess in ("en", "zh")) == (language in ("en", "zh")) for guess in guesses])
            ),
            error_rate=error_rate(language, [group[i].text for i in with_text], [transcripts[i] for i in with_text])
            if with_text
            else None,
        )
    return scores


def table(scores: dict[str, Score]) -> str:
    """Return the scores as a Markdown table."""
    lines = [
        "| language | clips | language right | en/zh or other right | WER (zh, ja: CER) |",
        "|---|---|---|---|---|",
    ]
    for language, s in sorted(scores.items()):
        right, sided = 100 * s.language_accuracy, 100 * s.filter_accuracy
        errors = "" if s.error_rate is None else f"{100 * s.error_rate:.1f} %"
        lines.append(f"| {language} | {s.clips} | {right:.0f} % | {sided:.0f} % | {errors} |")
    clips = sum(s.clips for s in scores.values())
    right = sum(s.clips * s.language_accuracy for s in scores.values()) / clips
    sided = sum(s.clips * s.filter_accuracy for s in scores.values()) / clips
    lines.append(f"| all | {clips} | {100 * right:.1f} % | {100 * sided:.1f} % | |")
    return "\n".join(lines)
