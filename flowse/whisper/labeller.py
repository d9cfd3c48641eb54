"""Label recordings with Whisper: the language of each and its transcript, in batches over many recordings.

openai-whisper transcribes one file after another; its model takes batches. Here recordings are cut into windows as
long as the encoder takes (30 s for every published model), windows of like length are put into one batch, and the
results are put together again by recording. A window's result does not depend on its neighbours in the batch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Float, Float32

from flowse.audio.activity import find_activity
from flowse.whisper.config import Decoding, WhisperConfig
from flowse.whisper.ctranslate import CTranslateEngine
from flowse.whisper.engine import DecodedWindow, Engine
from flowse.whisper.openai import OpenAiEngine
from flowse.whisper.transcript import Transcript, compression_ratio, join_transcripts
from flowse.whisper.windows import SAMPLE_RATE, split_windows

LOOP_RATIO = 2.4
"""A window whose text repeats itself so much (`Transcript.compression_ratio`; Whisper's own limit) is decoded again."""

_HOP = 160  # samples between mel frames; the encoder halves the frames
_BUCKET_S = 5.0

Waveform = Float32[np.ndarray, " _"]  # lengths differ within a list
Item = TypeVar("Item")


class Labeller:
    """A Whisper model that labels recordings.

    Args:
        config: Which model, and which program runs it.
        device: Where it runs.

    Raises:
        FileNotFoundError: There is no such model; says what to do.
        ValueError: The file is no Whisper checkpoint, or the backend does not know the precision.
        BackendMissing: The backend is not installed.

    Example:
        >>> labeller = Labeller(WhisperConfig(model="whisper-tiny"))
        >>> labeller.transcribe([waveform_at_16_khz], ["en"])[0].text  # doctest: +SKIP
    """

    def __init__(self, config: WhisperConfig, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        self.batch_size = config.batch_size or (64 if self.device.type == "cuda" else 16)
        open_engine = CTranslateEngine if config.backend == "faster-whisper" else OpenAiEngine
        self.engine: Engine = open_engine(config, self.device)

    @property
    def multilingual(self) -> bool:
        """Whether the model knows other languages than English, and so can detect a recording's language."""
        return self.engine.multilingual

    @property
    def languages(self) -> tuple[str, ...]:
        """Codes of the languages that the model knows."""
        return self.engine.languages

    @property
    def window(self) -> int:
        """Longest window that the encoder takes, in samples: 480,000 (30 s) for every published model."""
        return self.engine.n_audio_ctx * 2 * _HOP

    def detect_language(self, waveforms: Sequence[Waveform]) -> list[dict[str, float]]:
        """Detect the language of recordings.

        Args:
            waveforms: Mono at 16 kHz, any length; samples that are not finite count as silence.

        Returns:
            For each recording the probability of every language that the model knows: the mean over its windows,
            weighted by their active seconds, silence at both ends left out. Empty where nothing is audible.

        Raises:
            ValueError: The model is English-only.
        """
        if not self.multilingual:
            raise ValueError("this Whisper model knows English only and cannot tell languages; use a multilingual one")
        pieces = [piece for index, waveform in enumerate(waveforms) for piece in self._pieces(index, waveform)]
        sums: list[dict[str, float]] = [{} for _ in waveforms]
        weights = [0.0] * len(waveforms)
        for batch in _batches(sorted(pieces, key=lambda piece: len(piece.samples)), self.batch_size):
            probabilities = self.engine.detect_language(self._mel([piece.samples for piece in batch]))
            for piece, found in zip(batch, probabilities, strict=True):
                total = sums[piece.recording]
                for language, probability in found.items():
                    total[language] = total.get(language, 0.0) + piece.active_s * probability
                weights[piece.recording] += piece.active_s
        return [
            {language: value / weight for language, value in total.items()}
            for total, weight in zip(sums, weights, strict=True)
        ]

    def transcribe(
        self,
        waveforms: Sequence[Waveform],
        languages: Sequence[str | None] | None = None,
        decoding: Decoding | None = None,
    ) -> list[Transcript]:
        """Transcribe recordings.

        Args:
            waveforms: Mono at 16 kHz, any length; samples that are not finite count as silence.
            languages: Code of each recording's language; None or "": the language is detected.
            decoding: Beams and limits; the defaults of `Decoding` if None.

        Raises:
            ValueError: The model does not know one of the languages.
        """
        decoding = decoding or Decoding()
        given = [language or "" for language in (languages or [""] * len(waveforms))]
        spoken = self._settle_languages(waveforms, given)
        pieces = [piece for index, waveform in enumerate(waveforms) for piece in self._pieces(index, waveform)]
        by_start: list[dict[int, Transcript]] = [{} for _ in waveforms]
        for language, batch in self._decoding_batches(pieces, spoken, decoding):
            mel = self._mel([piece.samples for piece in batch])
            limits = [self._most_tokens(piece, decoding) for piece in batch]
            results = self.engine.decode(mel, language, limits, decoding.beam_size)
            if decoding.beam_size > 1:
                results = self._without_loops(results, mel, language, limits)
            for piece, result in zip(batch, results, strict=True):
                by_start[piece.recording][piece.start] = _transcript(result, language, len(piece.samples))
        return [
            join_transcripts([windows[start] for start in sorted(windows)], language)
            for windows, language in zip(by_start, spoken, strict=True)
        ]

    def _without_loops(
        self, results: Sequence[DecodedWindow], mel: Float[torch.Tensor, "B F T"], language: str, limits: Sequence[int]
    ) -> list[DecodedWindow]:
        """Decode windows whose text repeats itself again, greedily; the text that repeats itself less is kept.

        What is repeated is probable once it has begun, so a beam search, which ranks texts by the mean probability of
        a token, prefers one word seventy times to a sentence. Whisper's command line then samples at a higher
        temperature; greedy decoding gives the same text every time.
        """
        kept = list(results)
        for row, result in enumerate(results):
            ratio = compression_ratio(result.text)
            if ratio > LOOP_RATIO:
                (again,) = self.engine.decode(mel[row : row + 1], language, limits[row : row + 1], 1)
                if compression_ratio(again.text) < ratio:
                    kept[row] = again
        return kept

    def _settle_languages(self, waveforms: Sequence[Waveform], given: Sequence[str]) -> list[str]:
        """Check the languages that are given and detect the others; "" where nothing is audible.

        Raises:
            ValueError: The model does not know one of the languages.
        """
        unknown = sorted({language for language in given if language and language not in self.languages})
        if unknown:
            raise ValueError(f"this Whisper model does not know the language(s) {', '.join(unknown)}")
        settled = list(given)
        unlabelled = [index for index, language in enumerate(given) if not language]
        if unlabelled and not self.multilingual:
            return [language or "en" for language in given]
        found = self.detect_language([waveforms[index] for index in unlabelled]) if unlabelled else []
        for index, probabilities in zip(unlabelled, found, strict=True):
            settled[index] = max(probabilities, key=probabilities.__getitem__) if probabilities else ""
        return settled

    def _pieces(self, recording: int, waveform: Waveform) -> Iterator[_Piece]:
        """Yield the windows of a recording's audible stretch; windows without activity are left out."""
        clean = np.nan_to_num(waveform, nan=0.0, posinf=0.0, neginf=0.0)
        span = find_activity(clean, SAMPLE_RATE)
        for start, stop in split_windows(clean[span.start : span.stop], self.window):
            samples = clean[span.start + start : span.start + stop]
            active_s = find_activity(samples, SAMPLE_RATE).active_s
            if active_s > 0:
                yield _Piece(recording, span.start + start, samples, active_s)

    def _mel(self, windows: Sequence[Waveform]) -> Float[torch.Tensor, "B F T"]:
        """Compute log-mels of windows padded with silence to the model's length, as Whisper was trained."""
        import whisper

        mels = []
        for samples in windows:
            # A window at a time: log_mel_spectrogram limits the range relative to the loudest value of all that it
            # is given, so a loud neighbour in the batch would change a quiet window.
            padded = torch.from_numpy(whisper.pad_or_trim(samples, self.window)).to(self.device)
            mels.append(whisper.log_mel_spectrogram(padded, self.engine.n_mels))
        return torch.stack(mels)

    def _decoding_batches(
        self, pieces: Sequence[_Piece], spoken: Sequence[str], decoding: Decoding
    ) -> Iterator[tuple[str, list[_Piece]]]:
        """Group windows by language, like lengths together; yields (language, windows)."""
        groups: dict[str, list[_Piece]] = {}
        for piece in pieces:
            groups.setdefault(spoken[piece.recording], []).append(piece)
        # A batch takes as much memory with many beams as with one.
        size = max(1, self.batch_size // decoding.beam_size)
        for language, group in sorted(groups.items()):
            ordered = sorted(group, key=lambda piece: len(piece.samples))
            for batch in _batches(ordered, size):
                yield language, batch

    def _most_tokens(self, piece: _Piece, decoding: Decoding) -> int:
        """Return a window's limit of tokens, from its own length rounded up to 5 s: it depends on no neighbour."""
        bucket_s = math.ceil(len(piece.samples) / SAMPLE_RATE / _BUCKET_S) * _BUCKET_S
        return min(24 + math.ceil(bucket_s * decoding.tokens_per_second), self.engine.n_text_ctx // 2)


@dataclass(frozen=True)
class _Piece:
    """A window of a recording.

    Attributes:
        recording: Index of the recording.
        start: Where the window begins there, in samples.
        samples: The window's audio.
        active_s: How much of it is audible, in seconds.
    """

    recording: int
    start: int
    samples: Waveform
    active_s: float


def _batches(items: Sequence[Item], size: int) -> Iterator[list[Item]]:
    for start in range(0, len(items), size):
        yield list(items[start : start + size])


def _transcript(window: DecodedWindow, language: str, samples: int) -> Transcript:
    """Make a window's transcript from what it was decoded to."""
    return Transcript(
        text=window.text,
        language=language,
        avg_logprob=window.avg_logprob,
        no_speech_prob=window.no_speech_prob,
        compression_ratio=compression_ratio(window.text),
        tokens=window.tokens,
        seconds=samples / SAMPLE_RATE,
    )
