"""Label manifest rows with Whisper: read their audio ahead of the model, and put long rows together again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from flowse.audio.activity import Activity, find_activity
from flowse.data.audio_ahead import Block, Reader, read_ahead
from flowse.data.manifest import Utterance
from flowse.language_filter import LanguageRules, no_speech
from flowse.refusal import Refusal, refuse_singly, refusing
from flowse.whisper.config import Decoding
from flowse.whisper.transcript import Transcript, join_transcripts
from flowse.whisper.windows import SAMPLE_RATE


@runtime_checkable
class LanguageDetector(Protocol):
    """Detects languages, as `flowse.whisper.labeller.Labeller` does."""

    def detect_language(self, waveforms: Sequence[Any]) -> list[dict[str, float]]:
        """Return the probability of every language for each recording at 16 kHz."""


@runtime_checkable
class Transcriber(Protocol):
    """Transcribes recordings, as `flowse.whisper.labeller.Labeller` does."""

    def transcribe(
        self, waveforms: Sequence[Any], languages: Sequence[str | None], decoding: Decoding
    ) -> list[Transcript]:
        """Transcribe recordings at 16 kHz in the languages given; None or "": the language is detected."""


def _counting(
    batches: Iterable[list[Block]], rows: Sequence[Utterance], counted: Callable[[float], None] | None
) -> Iterator[list[Block]]:
    """Yield batches; once the next one is asked for, the rows that began in one are counted."""
    begun: set[int] = set()
    for batch in batches:
        yield batch
        for index in dict.fromkeys(block.index for block in batch):
            if index not in begun and counted is not None:
                counted(rows[index].duration_s)
            begun.add(index)


def detect_languages(
    detector: LanguageDetector,
    rows: Sequence[Utterance],
    roots: Mapping[str, Path],
    rules: LanguageRules,
    reader: Reader | None = None,
    counted: Callable[[float], None] | None = None,
) -> list[dict[str, float] | Refusal]:
    """Detect the language of rows.

    Args:
        detector: The model.
        rows: What to read.
        roots: Folder of every corpus.
        rules: What counts as sound; the model is not asked about the rest.
        reader: Reads the audio; None: this process, one batch ahead (`read_ahead`).
        counted: Called with the length of each row, in seconds, when the first of its audio has been worked on.

    Returns:
        For each row the probability of every language, averaged over its blocks by their active seconds; or why it
        has none: it cannot be read, or holds no speech.
    """
    sums: list[dict[str, float]] = [{} for _ in rows]
    active: list[list[Activity]] = [[] for _ in rows]
    errors: dict[int, Refusal] = {}
    for batch in _counting((reader or read_ahead)(rows, roots), rows, counted):
        errors |= {block.index: block.error for block in batch if block.error is not None}
        audible = []
        for block in (block for block in batch if block.error is None):
            try:
                with refusing(rows[block.index].path):
                    activity = find_activity(block.waveform, SAMPLE_RATE, floor_dbfs=rules.floor_dbfs)
            except Refusal as error:
                errors[block.index] = error
                continue
            active[block.index].append(activity)
            if no_speech([activity], rules) is None:
                audible.append((block, activity.active_s))
        found = refuse_singly(
            detector.detect_language,
            [block.waveform for block, _ in audible],
            [rows[block.index].path for block, _ in audible],
        )
        for (block, active_s), probabilities in zip(audible, found, strict=True):
            if isinstance(probabilities, Refusal):
                errors[block.index] = probabilities
                continue
            total = sums[block.index]
            for language, probability in probabilities.items():
                total[language] = total.get(language, 0.0) + active_s * probability
    results: list[dict[str, float] | Refusal] = []
    for index, total in enumerate(sums):
        norm = sum(total.values())
        refusal = errors.get(index) or no_speech(active[index], rules)
        results.append(refusal or {language: value / norm for language, value in total.items()})
    return results


def transcribe(
    transcriber: Transcriber,
    rows: Sequence[Utterance],
    roots: Mapping[str, Path],
    decoding: Decoding,
    reader: Reader | None = None,
    counted: Callable[[float], None] | None = None,
) -> list[Transcript | Refusal]:
    """Transcribe rows in their languages.

    Args:
        transcriber: The model.
        rows: What to read; the language of a row without one is detected.
        roots: Folder of every corpus.
        decoding: Beams and limits.
        reader: Reads the audio; None: this process, one batch ahead (`read_ahead`).
        counted: Called with the length of each row, in seconds, when the first of its audio has been worked on.

    Returns:
        For each row its transcript, or why it cannot be read.
    """
    parts: list[list[Transcript]] = [[] for _ in rows]
    errors: dict[int, Refusal] = {}
    for batch in _counting((reader or read_ahead)(rows, roots), rows, counted):
        errors |= {block.index: block.error for block in batch if block.error is not None}
        blocks = [block for block in batch if block.error is None]
        found = refuse_singly(
            lambda some: transcriber.transcribe(
                [block.waveform for block in some], [rows[block.index].language for block in some], decoding
            ),
            blocks,
            [rows[block.index].path for block in blocks],
        )
        for block, transcript in zip(blocks, found, strict=True):
            if isinstance(transcript, Refusal):
                errors[block.index] = transcript
            else:
                parts[block.index].append(transcript)
    return [
        errors.get(index) or join_transcripts(transcripts, transcripts[0].language if transcripts else "")
        for index, transcripts in enumerate(parts)
    ]
