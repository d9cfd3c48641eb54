"""Laws of labelling: every row has one answer in its place, long rows are put together, errors are answers."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile as sf

from flowse import labelling
from flowse.data.audio_ahead import read_ahead
from flowse.data.manifest import Utterance
from flowse.labelling import detect_languages, transcribe
from flowse.language_filter import LanguageRules
from flowse.refusal import Refusal
from flowse.whisper.config import Decoding
from flowse.whisper.transcript import Transcript
from tests.tiny import syllables

RATE = 16000
LENGTHS_S = {"short": 1.0, "long": 7.0, "silent": 1.0, "gone": 1.0}


class ByLength:
    """A labeller whose answers say how long a block is."""

    def detect_language(self, waveforms: Sequence[Any]) -> list[dict[str, float]]:
        shares = [min(1.0, len(waveform) / (5 * RATE)) for waveform in waveforms]
        return [{"en": share, "zh": 1 - share} for share in shares]

    def transcribe(
        self, waveforms: Sequence[Any], languages: Sequence[str | None], decoding: Decoding
    ) -> list[Transcript]:
        return [
            Transcript(
                text=f"{decoding.beam_size} beams", language=language or "", tokens=1, seconds=len(waveform) / RATE
            )
            for waveform, language in zip(waveforms, languages, strict=True)
        ]


@pytest.fixture
def rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Utterance]:
    """Rows in batches of 4 s: the long one comes in blocks."""
    monkeypatch.setattr(labelling, "read_ahead", functools.partial(read_ahead, batch_s=4.0))
    for name, seconds in LENGTHS_S.items():
        samples = np.zeros(RATE) if name == "silent" else syllables(seconds, 1)
        if name != "gone":
            sf.write(tmp_path / f"{name}.wav", samples, RATE)
    return [
        Utterance(utt_id=f"c/{name}", corpus="c", kind="speech", path=f"{name}.wav", duration_s=seconds, language="en")
        for name, seconds in LENGTHS_S.items()
    ]


def test_languages_of_blocks_are_averaged_and_rows_without_speech_have_a_reason(
    rows: list[Utterance], tmp_path: Path
) -> None:
    short, long, silent, gone = detect_languages(ByLength(), rows, {"c": tmp_path}, LanguageRules())
    assert isinstance(short, dict)
    assert isinstance(long, dict)
    assert short["en"] == pytest.approx(0.2)
    # Blocks of about 4 and 3 s, or of 4, 2 and 1: never as sure as one block of 7 s would be.
    assert 0.4 < long["en"] < 0.8
    assert sum(long.values()) == pytest.approx(1)
    assert [answer.reason for answer in (silent, gone) if isinstance(answer, Refusal)] == ["no_speech", "not_found"]


def test_transcripts_of_blocks_are_joined_and_unreadable_rows_have_a_reason(
    rows: list[Utterance], tmp_path: Path
) -> None:
    short, long, silent, gone = transcribe(ByLength(), rows, {"c": tmp_path}, Decoding(beam_size=2))
    assert isinstance(short, Transcript)
    assert isinstance(long, Transcript)
    assert (short.text, short.language, short.seconds) == ("2 beams", "en", pytest.approx(1.0))
    assert long.text == " ".join(["2 beams"] * long.tokens)
    assert long.seconds == pytest.approx(7.0)
    assert isinstance(silent, Transcript)
    assert isinstance(gone, Refusal)
    assert gone.reason == "not_found"


def test_no_rows_are_no_answers(tmp_path: Path) -> None:
    assert detect_languages(ByLength(), [], {}, LanguageRules()) == transcribe(ByLength(), [], {}, Decoding()) == []


class FailsAtLong(ByLength):
    """A labeller that raises at blocks of more than 2 s, as a model does that finds no memory."""

    def detect_language(self, waveforms: Sequence[Any]) -> list[dict[str, float]]:
        self._refuse(waveforms)
        return super().detect_language(waveforms)

    def transcribe(
        self, waveforms: Sequence[Any], languages: Sequence[str | None], decoding: Decoding
    ) -> list[Transcript]:
        self._refuse(waveforms)
        return super().transcribe(waveforms, languages, decoding)

    def _refuse(self, waveforms: Sequence[Any]) -> None:
        if any(len(waveform) > 2 * RATE for waveform in waveforms):
            raise RuntimeError("tensor sizes do not match")


def test_an_error_of_the_model_is_the_answer_of_the_row_at_which_it_was_raised(
    rows: list[Utterance], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(labelling, "read_ahead", functools.partial(read_ahead, batch_s=60.0))
    short, long, *_ = detect_languages(FailsAtLong(), rows, {"c": tmp_path}, LanguageRules())
    assert isinstance(short, dict)
    assert isinstance(long, Refusal)
    assert (long.reason, "long.wav: RuntimeError" in long.detail) == ("worker_error", True)
    short, long, *_ = transcribe(FailsAtLong(), rows, {"c": tmp_path}, Decoding())
    assert isinstance(short, Transcript)
    assert isinstance(long, Refusal)
    assert (long.reason, long.kind) == ("worker_error", "failed")
