"""Whisper as a labeller: which language a recording is in and what is said, in batches over many recordings.

openai-whisper transcribes one file after another; its model takes batches. Here recordings are cut into
windows that the model can hear at once (30 s for every published one), windows of like length are put into
one batch, and the results are put together again by recording. A window's result does not depend on its
neighbours in the batch.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Float, Float32

from flowse.audio.activity import find_activity, frame_levels
from flowse.whisper_engines import Backend, Compute, Heard, open_engine

SAMPLE_RATE = 16000
"""What Whisper hears, in Hz."""

_HOP = 160  # samples between mel frames; the encoder halves the frames
_BUCKET_S = 5.0
_SEARCH_S = 8.0
_SHORTEST_TAIL_S = 1.0

Waveform = Float32[np.ndarray, " _"]  # lengths differ within a list
Item = TypeVar("Item")


@dataclass(frozen=True, kw_only=True)
class Transcript:
    """What Whisper heard in a recording.

    Attributes:
        text: Empty if nothing was heard.
        language: ISO 639-1 code (three letters where there is none) that it was decoded as; "" if unknown.
        avg_logprob: Mean natural log-probability a token; 0 if nothing was decoded.
        no_speech_prob: Probability that nobody speaks, mean over the windows by length; 1 if nothing is
            audible.
        compression_ratio: Bytes of the text over its bytes compressed; above 2.4 it repeats itself.
        tokens: Number of tokens, with the end of text of every window.
        seconds: Length of the windows that were decoded.
    """

    text: str
    language: str
    avg_logprob: float = 0.0
    no_speech_prob: float = 1.0
    compression_ratio: float = 0.0
    tokens: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """How transcripts are decoded, at temperature 0: the same audio gives the same text.

    Attributes:
        beam_size: Texts that are followed at a time: 5, as on openai-whisper's command line; 1 is greedy and faster.
        tokens_per_second: A window of n seconds gets at most 24 + n times this many tokens, so that a
            decoder that loops stops early. Speech reaches about 8, and 20 where a model spells every letter as
            the embedded one does.
    """

    beam_size: int = 5
    tokens_per_second: float = 25.0

    def __post_init__(self) -> None:
        if self.beam_size < 1:
            raise ValueError(f"beam_size is {self.beam_size}; allowed is 1 (greedy) or more")
        if not self.tokens_per_second > 0:
            raise ValueError(f"tokens_per_second is {self.tokens_per_second}; it must be positive")


class Labeller:
    """A Whisper model that labels recordings.

    Args:
        model: A file in openai-whisper's checkpoint format, a folder with one (`model.pt`), the name of an
            embedded model (`whisper-tiny`), or a published name (`base`, `large-v3`), which the backend
            downloads once; for "faster-whisper" also a CTranslate2 folder.
        device: Where it runs.
        batch_size: Windows in one batch; None: 16 on a CPU, 64 on a GPU. Does not change results.
        backend: Which program runs the model; both are told to decode alike.
        compute: Precision; "auto" is float16 on a GPU and float32 on a CPU.

    Raises:
        FileNotFoundError: There is no such model; says what to do.
        ValueError: The file is no Whisper checkpoint, or the backend does not know the precision.
        BackendMissing: The backend is not installed.
    """

    def __init__(
        self,
        model: str | Path,
        device: torch.device | str = "cpu",
        batch_size: int | None = None,
        backend: Backend = "openai",
        compute: Compute = "auto",
    ) -> None:
        self.device = torch.device(device)
        self.batch_size = batch_size or (64 if self.device.type == "cuda" else 16)
        self.engine = open_engine(model, backend, self.device, compute)

    @property
    def multilingual(self) -> bool:
        """Whether the model knows other languages than English, and so can tell languages apart."""
        return self.engine.multilingual

    @property
    def languages(self) -> tuple[str, ...]:
        """Codes of the languages that the model knows."""
        return self.engine.languages

    @property
    def window(self) -> int:
        """Samples that the model hears at once: 480,000 (30 s) for every published model."""
        return self.engine.n_audio_ctx * 2 * _HOP

    def detect_language(self, waveforms: Sequence[Waveform]) -> list[dict[str, float]]:
        """Tell the language of recordings.

        Args:
            waveforms: Mono at 16 kHz, any length; samples that are not finite count as silence.

        Returns:
            For each recording the probability of every language that the model knows: the mean over its
                windows weighted
            by their active seconds, silence at both ends left out. Empty where nothing is audible.

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
        """Write down what is said in recordings.

        Args:
            waveforms: Mono at 16 kHz, any length; samples that are not finite count as silence.
            languages: Code of each recording's language; None or "" has it detected.
            decoding: How; the defaults of `Decoding` if None.

        Raises:
            ValueError: The model does not know one of the languages.
        """
        decoding = decoding or Decoding()
        given = [language or "" for language in (languages or [""] * len(waveforms))]
        spoken = self._settle_languages(waveforms, given)
        pieces = [piece for index, waveform in enumerate(waveforms) for piece in self._pieces(index, waveform)]
        heard: list[dict[int, Transcript]] = [{} for _ in waveforms]
        for language, batch in self._decoding_batches(pieces, spoken, decoding):
            mel = self._mel([piece.samples for piece in batch])
            limits = [self._most_tokens(piece, decoding) for piece in batch]
            results = self.engine.decode(mel, language, limits, decoding.beam_size)
            for piece, result in zip(batch, results, strict=True):
                heard[piece.recording][piece.start] = _transcript(result, language, len(piece.samples))
        return [
            join_transcripts([windows[start] for start in sorted(windows)], language)
            for windows, language in zip(heard, spoken, strict=True)
        ]

    def _settle_languages(self, waveforms: Sequence[Waveform], given: Sequence[str]) -> list[str]:
        """Check the languages that are given and detect those that are not."""
        unknown = sorted({language for language in given if language and language not in self.languages})
        if unknown:
            raise ValueError(f"this Whisper model does not know the language(s) {', '.join(unknown)}")
        settled = list(given)
        open_ones = [index for index, language in enumerate(given) if not language]
        if open_ones and not self.multilingual:
            return [language or "en" for language in given]
        found = self.detect_language([waveforms[index] for index in open_ones]) if open_ones else []
        for index, probabilities in zip(open_ones, found, strict=True):
            settled[index] = max(probabilities, key=probabilities.__getitem__) if probabilities else ""
        return settled

    def _pieces(self, recording: int, waveform: Waveform) -> Iterator[_Piece]:
        """Cut a recording into windows of its audible stretch; windows without activity are left out."""
        clean = np.nan_to_num(waveform, nan=0.0, posinf=0.0, neginf=0.0)
        span = find_activity(clean, SAMPLE_RATE)
        for start, stop in split_windows(clean[span.start : span.stop], self.window):
            samples = clean[span.start + start : span.start + stop]
            active_s = find_activity(samples, SAMPLE_RATE).active_s
            if active_s > 0:
                yield _Piece(recording, span.start + start, samples, active_s)

    def _mel(self, windows: Sequence[Waveform]) -> Float[torch.Tensor, "B F T"]:
        """Log-mels of windows padded with silence to the model's length, as Whisper was trained."""
        import whisper

        mels = []
        for samples in windows:
            # One by one: log_mel_spectrogram limits the range relative to the loudest value of all that it
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
        # As much memory, however many beams.
        size = max(1, self.batch_size // decoding.beam_size)
        for language, group in sorted(groups.items()):
            ordered = sorted(group, key=lambda piece: len(piece.samples))
            for batch in _batches(ordered, size):
                yield language, batch

    def _most_tokens(self, piece: _Piece, decoding: Decoding) -> int:
        """Return the limit for a window, from its own length in steps of five seconds: no neighbour moves it."""
        bucket_s = math.ceil(len(piece.samples) / SAMPLE_RATE / _BUCKET_S) * _BUCKET_S
        return min(24 + math.ceil(bucket_s * decoding.tokens_per_second), self.engine.n_text_ctx // 2)


@dataclass(frozen=True)
class _Piece:
    """A window of a recording: its place there in samples, its samples, its active seconds."""

    recording: int
    start: int
    samples: Waveform
    active_s: float


def split_windows(waveform: Waveform, longest: int, sample_rate: int = SAMPLE_RATE) -> list[tuple[int, int]]:
    """Cut a recording into consecutive stretches of at most `longest` samples, at its quietest points.

    Args:
        waveform: Mono samples.
        longest: Most samples of a stretch.
        sample_rate: In Hz.

    Returns:
        (start, stop) in samples: together they cover every sample exactly once, in order. No stretch but
        that of a short recording is shorter than a second (or than an eighth of `longest`).
    """
    total = len(waveform)
    tail = min(round(_SHORTEST_TAIL_S * sample_rate), longest // 8)
    search = min(round(_SEARCH_S * sample_rate), longest // 2)
    cuts = [0]
    while total - cuts[-1] > longest:
        latest = min(cuts[-1] + longest, total - tail)
        earliest = max(cuts[-1] + longest - search, cuts[-1] + 1)
        cuts.append(quietest_point(waveform, min(earliest, latest - 1), latest, sample_rate))
    cuts.append(total)
    return list(pairwise(cuts)) if total else []


def quietest_point(waveform: Waveform, first: int, last: int, sample_rate: int = SAMPLE_RATE) -> int:
    """Return the middle of the quietest tenth of a second of [first, last); of the latest, if several are.

    The point lies in (first, last], so that a cut there always leaves something on its left.
    """
    frame_s = 0.02
    levels = frame_levels(waveform[first:last], sample_rate, frame_s)
    width = min(5, len(levels))
    power = np.convolve(10 ** (levels / 10), np.ones(width), mode="valid")
    quietest = len(power) - 1 - int(np.argmin(power[::-1]))
    middle = first + round((quietest + width / 2) * frame_s * sample_rate)
    return min(max(middle, first + 1), last)


def _batches(items: Sequence[Item], size: int) -> Iterator[list[Item]]:
    for start in range(0, len(items), size):
        yield list(items[start : start + size])


def join_transcripts(parts: Sequence[Transcript], language: str) -> Transcript:
    """Put transcripts of consecutive stretches of a recording together; any grouping gives the same."""
    decoded = [part for part in parts if part.seconds > 0]
    if not decoded:
        return Transcript(text="", language=language)
    # Between Hanzi, kana or Thai letters no space is written.
    gap = "" if language in ("zh", "yue", "ja", "th") else " "
    text = gap.join(part.text for part in decoded if part.text)
    encoded = text.encode()
    tokens, seconds = sum(part.tokens for part in decoded), sum(part.seconds for part in decoded)
    return Transcript(
        text=text,
        language=language,
        avg_logprob=sum(part.avg_logprob * part.tokens for part in decoded) / tokens,
        no_speech_prob=sum(part.no_speech_prob * part.seconds for part in decoded) / seconds,
        compression_ratio=len(encoded) / len(zlib.compress(encoded)),
        tokens=tokens,
        seconds=seconds,
    )


def _transcript(result: Heard, language: str, samples: int) -> Transcript:
    """Add to what was heard where it was heard, and how well it compresses."""
    encoded = result.text.encode()
    return Transcript(
        text=result.text,
        language=language,
        avg_logprob=result.avg_logprob,
        no_speech_prob=result.no_speech_prob,
        compression_ratio=len(encoded) / len(zlib.compress(encoded)),
        tokens=result.tokens,
        seconds=samples / SAMPLE_RATE,
    )
