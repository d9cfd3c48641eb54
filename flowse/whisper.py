"""Whisper as a labeller: which language a recording is in and what is said, in batches over many recordings.

openai-whisper transcribes one file after another; its model takes batches. Here recordings are cut into
windows that the model can hear at once (30 s for every published one), windows of like length are put into
one batch, and the results are put together again by recording. A window's result does not depend on its
neighbours in the batch.
"""

from __future__ import annotations

import math
import pickle
import warnings
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Float, Float32

from flowse.audio.activity import find_activity, frame_levels
from flowse.pretrained import resolve

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
        beam_size: 1 decodes greedily, in batches; more decodes window by window.
        tokens_per_second: A window of n seconds gets at most 24 + n times this many tokens, so that a
            decoder that loops stops early; speech reaches about 8.
    """

    beam_size: int = 1
    tokens_per_second: float = 15.0

    def __post_init__(self) -> None:
        if self.beam_size < 1:
            raise ValueError(f"beam_size is {self.beam_size}; allowed is 1 (greedy) or more")
        if not self.tokens_per_second > 0:
            raise ValueError(f"tokens_per_second is {self.tokens_per_second}; it must be positive")


class Labeller:
    """A Whisper model that labels recordings.

    Args:
        model: A file in openai-whisper's checkpoint format, a folder with one (`model.pt`), the name of an
            embedded model (`whisper-tiny`), or a published name (`base`, `large-v3`), which openai-whisper
            downloads once.
        device: Where it runs.
        fp16: Half precision; None means on a GPU only. Whisper has no half precision on a CPU.
        batch_size: Windows in one batch; None: 16 on a CPU, 64 on a GPU. Does not change results.

    Raises:
        FileNotFoundError: There is no such model; says what to do.
        ValueError: The file is no Whisper checkpoint.
    """

    def __init__(
        self,
        model: str | Path,
        device: torch.device | str = "cpu",
        fp16: bool | None = None,
        batch_size: int | None = None,
    ) -> None:
        import whisper

        self.device = torch.device(device)
        on_gpu = self.device.type == "cuda"
        self.fp16 = on_gpu and (fp16 is None or fp16)
        self.batch_size = batch_size or (64 if on_gpu else 16)
        file = checkpoint_file(model)
        try:
            self.model = whisper.load_model(str(file or model), device=self.device)
        except (KeyError, TypeError, ValueError, RuntimeError, OSError, pickle.UnpicklingError) as error:
            raise ValueError(
                f"{file or model}: not a checkpoint of openai-whisper ({type(error).__name__}: {error}); "
                "give a .pt file with `dims` and `model_state_dict`, e.g. one that openai-whisper downloaded"
            ) from error
        self.model.eval()
        with warnings.catch_warnings():
            # Whisper reads its vocabulary without closing the file; it does so once a process.
            warnings.simplefilter("ignore", ResourceWarning)
            whisper.tokenizer.get_tokenizer(self.multilingual, num_languages=self.model.num_languages)

    @property
    def multilingual(self) -> bool:
        """Whether the model knows other languages than English, and so can tell languages apart."""
        return bool(self.model.is_multilingual)

    @property
    def languages(self) -> tuple[str, ...]:
        """Codes of the languages that the model knows."""
        from whisper.tokenizer import LANGUAGES

        return tuple(LANGUAGES)[: self.model.num_languages] if self.multilingual else ("en",)

    @property
    def window(self) -> int:
        """Samples that the model hears at once: 480,000 (30 s) for every published model."""
        return int(self.model.dims.n_audio_ctx) * 2 * _HOP

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
            mel = self._mel([piece.samples for piece in batch])
            _, probabilities = self.model.detect_language(mel)
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
            decoding: How; greedy by default.

        Raises:
            ValueError: The model does not know one of the languages.
        """
        decoding = decoding or Decoding()
        given = [language or "" for language in (languages or [""] * len(waveforms))]
        spoken = self._settle_languages(waveforms, given)
        pieces = [piece for index, waveform in enumerate(waveforms) for piece in self._pieces(index, waveform)]
        heard: list[dict[int, Transcript]] = [{} for _ in waveforms]
        for language, bucket, batch in self._decoding_batches(pieces, spoken, decoding):
            options = self._options(language, bucket, decoding)
            results = self.model.decode(self._mel([piece.samples for piece in batch]), options)
            for piece, result in zip(batch, results, strict=True):
                heard[piece.recording][piece.start] = _transcript(result, len(piece.samples))
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
            mels.append(whisper.log_mel_spectrogram(padded, self.model.dims.n_mels))
        mel = torch.stack(mels)
        return mel.half() if self.fp16 else mel

    def _decoding_batches(
        self, pieces: Sequence[_Piece], spoken: Sequence[str], decoding: Decoding
    ) -> Iterator[tuple[str, int, list[_Piece]]]:
        """Group windows by language and length; yields (language, bucket, windows)."""
        groups: dict[tuple[str, int], list[_Piece]] = {}
        for piece in pieces:
            bucket = math.ceil(len(piece.samples) / SAMPLE_RATE / _BUCKET_S)
            groups.setdefault((spoken[piece.recording], bucket), []).append(piece)
        for (language, bucket), group in sorted(groups.items(), key=lambda entry: entry[0]):
            ordered = sorted(group, key=lambda piece: len(piece.samples))
            # openai-whisper 20250625 repeats the tokens of a beam and not the audio: right for one window
            # only.
            for batch in _batches(ordered, self.batch_size if decoding.beam_size == 1 else 1):
                yield language, bucket, batch

    def _options(self, language: str, bucket: int, decoding: Decoding) -> Any:
        from whisper import DecodingOptions

        # The limit follows from the bucket, which is a window's own: with the longest window of the batch a
        # text would depend on its neighbours.
        tokens = 24 + math.ceil(bucket * _BUCKET_S * decoding.tokens_per_second)
        return DecodingOptions(
            language=language,
            temperature=0.0,
            without_timestamps=True,
            sample_len=min(tokens, int(self.model.dims.n_text_ctx) // 2),
            beam_size=decoding.beam_size if decoding.beam_size > 1 else None,
            fp16=self.fp16,
        )


@dataclass(frozen=True)
class _Piece:
    """A window of a recording: its place there in samples, its samples, its active seconds."""

    recording: int
    start: int
    samples: Waveform
    active_s: float


def checkpoint_file(model: str | Path) -> Path | None:
    """Find a model's file.

    Args:
        model: As `Labeller` takes it.

    Returns:
        The file, or None for a published name, which openai-whisper finds (or downloads) itself.

    Raises:
        FileNotFoundError: There is no such model; says what to do.
    """
    try:
        found = resolve(str(model))
    except FileNotFoundError:
        import whisper

        if str(model) in whisper.available_models():
            return None
        raise FileNotFoundError(
            f"Whisper model {str(model)!r}: no such file, folder or embedded model; give the path of a .pt "
            "file, an embedded name such as 'whisper-tiny', or a published name "
            f"({', '.join(whisper.available_models())})"
        ) from None
    if not found.is_dir():
        return found
    inside = sorted(found.glob("*.pt"))
    if len(inside) != 1:
        raise FileNotFoundError(f"{found}: holds {len(inside)} .pt files where one is wanted; give the file itself")
    return inside[0]


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


def _transcript(result: Any, samples: int) -> Transcript:
    """Translate a DecodingResult; its average already counts the end of text."""
    return Transcript(
        text=result.text,
        language=result.language,
        avg_logprob=result.avg_logprob,
        no_speech_prob=0.0 if math.isnan(result.no_speech_prob) else result.no_speech_prob,
        compression_ratio=result.compression_ratio,
        tokens=len(result.tokens) + 1,
        seconds=samples / SAMPLE_RATE,
    )
