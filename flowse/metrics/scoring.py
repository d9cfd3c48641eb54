"""Score every version of a recording: DNSMOS, words, speaker, comparison with the clean version, level of no speech."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32

from flowse.audio.level import level_dbfs
from flowse.audio.waveform import resample
from flowse.data.shards import NO_SPEECH_DB
from flowse.metrics.dnsmos import DnsmosScore
from flowse.metrics.intrusive import intrusive
from flowse.metrics.scores import SIGNALS, Score, Signal
from flowse.metrics.speaker import cosine
from flowse.metrics.testsets import Item
from flowse.metrics.wer import token_errors
from flowse.whisper.transcript import Transcript
from flowse.whisper.windows import SAMPLE_RATE

QualityPredictor = Callable[[np.ndarray, int], DnsmosScore]
"""Scores samples at a rate, as `flowse.metrics.dnsmos.Dnsmos` does."""


@runtime_checkable
class Recogniser(Protocol):
    """Transcribes recordings, as `flowse.whisper.labeller.Labeller` does."""

    @property
    def languages(self) -> Sequence[str]:
        """Codes of the languages that the recogniser knows."""

    def transcribe(self, waveforms: Sequence[Any], languages: Sequence[str | None]) -> list[Transcript]:
        """Transcribe recordings at 16 kHz in the given languages; None: the language is detected."""


@runtime_checkable
class SpeakerEmbedder(Protocol):
    """Turns a recording into its speaker's embedding, as `flowse.metrics.speaker.SpeakerEncoder` does."""

    def embed(self, waveform: Any, sample_rate: int) -> Any:
        """Return the embedding of a recording."""


@dataclass(frozen=True, kw_only=True)
class RecordingVersions:
    """A recording of a test set in its versions, ready to be scored.

    Attributes:
        item: What is known of the recording.
        signals: Samples by version, equally long; "noisy" at least, "clean" where there is a reference.
        sample_rate: Of all versions, in Hz.
    """

    item: Item
    signals: Mapping[str, Float32[np.ndarray, " _"]]
    sample_rate: int


class Scorer:
    """Scores recordings; its networks are loaded once.

    Args:
        quality: Predicts what listeners would say: DNSMOS.
        recogniser: Counts word errors; None: none are counted.
        speaker: Compares speakers; None: they are not compared.
    """

    def __init__(
        self, quality: QualityPredictor, recogniser: Recogniser | None = None, speaker: SpeakerEmbedder | None = None
    ) -> None:
        self._quality, self._recogniser, self._speaker = quality, recogniser, speaker

    def __call__(self, recordings: Sequence[RecordingVersions]) -> list[Score]:
        """Score every version of every recording, in the order of the recordings and of `SIGNALS`."""
        transcripts = self._transcribe(recordings)
        return [
            self._score(recording, signal, transcripts)
            for recording in recordings
            for signal in SIGNALS
            if signal in recording.signals
        ]

    def _transcribe(self, recordings: Sequence[RecordingVersions]) -> dict[tuple[str, str], str]:
        """Transcribe every version of every recording, all in one batch; by key and version."""
        if self._recogniser is None:
            return {}
        keys, waveforms, languages = [], [], []
        for recording in recordings:
            if not recording.item.has_speech:
                continue  # a recogniser finds words in noise, too
            known = recording.item.language in self._recogniser.languages
            for signal, samples in recording.signals.items():
                keys.append((recording.item.key, signal))
                waveforms.append(resample(samples, recording.sample_rate, SAMPLE_RATE))
                languages.append(recording.item.language if known else None)
        if not waveforms:
            return {}
        transcripts = self._recogniser.transcribe(waveforms, languages)
        return {key: transcript.text.strip() for key, transcript in zip(keys, transcripts, strict=True)}

    def _score(self, recording: RecordingVersions, signal: Signal, transcripts: Mapping[tuple[str, str], str]) -> Score:
        """Score one version of one recording."""
        item, samples, rate = recording.item, recording.signals[signal], recording.sample_rate
        # Everything but the clean version itself is compared with it.
        clean = recording.signals.get("clean") if signal != "clean" else None
        transcript, reference = transcripts.get((item.key, signal), ""), transcripts.get((item.key, "clean"), "")
        errors = token_errors(item.text, transcript, item.language) if transcripts and item.text else None
        level = None if item.has_speech else max(NO_SPEECH_DB, level_dbfs(samples))
        errors_clean = token_errors(reference, transcript, item.language) if reference and signal != "clean" else None
        compared: dict[str, Any] = dict.fromkeys(("estoi", "pesq_wb", "si_sdr_db", "lag_ms", "alignment"))
        missing: tuple[str, ...] = ()
        similarity = None
        if clean is not None:
            found = intrusive(clean, samples, rate)
            compared = {name: _round(getattr(found, name)) for name in compared}
            missing = found.missing
            if self._speaker is not None:
                similarity = cosine(self._speaker.embed(clean, rate), self._speaker.embed(samples, rate))
        return Score(
            key=item.key,
            test_set=item.test_set,
            signal=signal,
            language=item.language,
            speaker=item.speaker,
            text=item.text,
            snr_db=item.snr_db,
            reverberant=item.reverberant,
            seconds=item.seconds,
            **{name: round(value, 5) for name, value in dataclasses.asdict(self._quality(samples, rate)).items()},
            heard=transcript,
            errors=errors.count if errors else None,
            tokens=errors.length if errors else None,
            errors_clean=errors_clean.count if errors_clean else None,
            tokens_clean=errors_clean.length if errors_clean else None,
            speaker_cosine=_round(similarity),
            **compared,
            residual_db=_round(level),
            missing="; ".join(missing),
            peak=round(float(np.abs(samples).max(initial=0.0)), 5),
        )


def _round(value: float | None) -> float | None:
    """Round a score, so that the last bits of a library change no byte; NaN becomes None."""
    return None if value is None or not math.isfinite(value) else round(value, 5)
