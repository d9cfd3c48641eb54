"""Score every version of a recording with every judge at hand: opinion, words, voice, the clean reference."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32

from flowse.audio.waveform import resample
from flowse.metrics.dnsmos import DnsmosScore
from flowse.metrics.intrusive import intrusive
from flowse.metrics.scores import SIGNALS, Score, Signal
from flowse.metrics.speaker import cosine
from flowse.metrics.wer import token_errors
from flowse.whisper.transcript import Transcript
from flowse.whisper.windows import SAMPLE_RATE

Opinion = Callable[[np.ndarray, int], DnsmosScore]
"""Scores samples at a rate, as `flowse.metrics.dnsmos.Dnsmos` does."""


@runtime_checkable
class Recogniser(Protocol):
    """Hears words, as `flowse.whisper.labeller.Labeller` does."""

    @property
    def languages(self) -> Sequence[str]:
        """Codes of the languages that it knows."""

    def transcribe(self, waveforms: Sequence[Any], languages: Sequence[str | None]) -> list[Transcript]:
        """Transcribe recordings at 16 kHz; None: it finds the language itself."""


@runtime_checkable
class Voices(Protocol):
    """Turns a recording into its speaker's embedding, as `flowse.metrics.speaker.SpeakerEncoder` does."""

    def embed(self, waveform: Any, sample_rate: int) -> Any:
        """Return the embedding of a recording."""


@dataclass(frozen=True, kw_only=True)
class Take:
    """A recording in its versions, ready to be scored; the columns of its `Score` that are known beforehand.

    Attributes:
        signals: Samples by version, equally long; "noisy" at least, "clean" where there is a reference.
        sample_rate: Of all of them, in Hz.
        key: See `flowse.metrics.scores.Score`, also for the others.
        test_set: See there.
        language: See there.
        speaker: See there.
        text: See there.
        snr_db: See there.
        reverberant: See there.
        seconds: See there.
    """

    signals: Mapping[str, Float32[np.ndarray, " _"]]
    sample_rate: int
    key: str
    test_set: str
    seconds: float
    language: str = ""
    speaker: str = ""
    text: str = ""
    snr_db: float | None = None
    reverberant: bool | None = None


class Scorer:
    """The judges, loaded once."""

    def __init__(self, opinion: Opinion, labeller: Recogniser | None = None, speaker: Voices | None = None) -> None:
        """Bring the judges together.

        Args:
            opinion: DNSMOS.
            labeller: Recogniser for word errors; None: none are counted.
            speaker: Encoder of voices; None: they are not compared.
        """
        self._opinion, self._labeller, self._speaker = opinion, labeller, speaker

    def __call__(self, takes: Sequence[Take]) -> list[Score]:
        """Score every version of every recording, in the order of the recordings and of `SIGNALS`."""
        heard = self._listen(takes)
        return [
            self._score(take, signal, heard) for take in takes for signal in SIGNALS if signal in take.signals
        ]  # fmt: skip

    def _listen(self, takes: Sequence[Take]) -> dict[tuple[str, str], str]:
        """Transcribe every version of every recording, all in one batch."""
        if self._labeller is None:
            return {}
        keys, waveforms, languages = [], [], []
        for take in takes:
            for signal, samples in take.signals.items():
                keys.append((take.key, signal))
                waveforms.append(resample(samples, take.sample_rate, SAMPLE_RATE))
                languages.append(take.language if take.language in self._labeller.languages else None)
        transcripts = self._labeller.transcribe(waveforms, languages)
        return {key: transcript.text.strip() for key, transcript in zip(keys, transcripts, strict=True)}

    def _score(self, take: Take, signal: Signal, heard: Mapping[tuple[str, str], str]) -> Score:
        samples, clean, rate = take.signals[signal], take.signals.get("clean"), take.sample_rate
        opinion = self._opinion(samples, rate)
        said = heard.get((take.key, signal), "")
        against_text = token_errors(take.text, said, take.language) if heard and take.text else None
        reference = heard.get((take.key, "clean"), "")
        against_clean = (
            token_errors(reference, said, take.language) if heard and reference and signal != "clean" else None
        )
        compared: dict[str, Any] = dict.fromkeys(("estoi", "pesq_wb", "si_sdr_db", "lag_ms", "alignment"))
        missing: tuple[str, ...] = ()
        if clean is not None and signal != "clean":
            found = intrusive(clean, samples, rate)
            compared = {name: _round(getattr(found, name)) for name in compared}
            missing = found.missing
        similarity = None
        if self._speaker is not None and clean is not None and signal != "clean":
            similarity = cosine(self._speaker.embed(clean, rate), self._speaker.embed(samples, rate))
        return Score(
            key=take.key,
            test_set=take.test_set,
            signal=signal,
            language=take.language,
            speaker=take.speaker,
            text=take.text,
            snr_db=take.snr_db,
            reverberant=take.reverberant,
            seconds=take.seconds,
            **{name: round(value, 5) for name, value in dataclasses.asdict(opinion).items()},
            heard=said,
            errors=against_text.count if against_text else None,
            tokens=against_text.length if against_text else None,
            errors_clean=against_clean.count if against_clean else None,
            tokens_clean=against_clean.length if against_clean else None,
            speaker_cosine=_round(similarity),
            **compared,
            missing="; ".join(missing),
            peak=round(float(np.abs(samples).max(initial=0.0)), 5),
        )


def _round(value: float | None) -> float | None:
    """Round a score, so that the last bits of a library change no byte; NaN becomes None."""
    return None if value is None or not math.isfinite(value) else round(value, 5)
