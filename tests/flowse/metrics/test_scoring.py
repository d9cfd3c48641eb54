"""Laws of scoring: every version once and in order, missing scores are None, a perfect copy has perfect scores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from flowse.metrics.dnsmos import DnsmosScore
from flowse.metrics.scoring import RecordingVersions, Scorer
from flowse.metrics.testsets import Item
from flowse.seeding import generator
from flowse.whisper.transcript import Transcript

RATE = 16_000


def predicted_quality(samples: np.ndarray, rate: int) -> DnsmosScore:
    """Score by level, in place of DNSMOS."""
    level = float(np.abs(samples).mean())
    return DnsmosScore(ovrl=level, sig=level, bak=level, p808=level)


class Recogniser:
    """Recognises one word more in noise."""

    languages = ("en",)

    def transcribe(self, waveforms: Sequence[Any], languages: Sequence[str | None]) -> list[Transcript]:
        texts = ["hello there" if np.abs(wave).max() < 0.5 else "hello there you" for wave in waveforms]
        return [Transcript(text=text, language="en") for text in texts]


class Speakers:
    """Takes a recording's first samples for the embedding of its speaker."""

    def embed(self, waveform: Any, sample_rate: int) -> Any:
        return np.asarray(waveform[:8], np.float64)


@pytest.fixture
def recording() -> RecordingVersions:
    t = np.arange(RATE) / RATE
    voice = 0.2 * np.sin(2 * np.pi * 150 * t) * np.clip(np.sin(2 * np.pi * 3 * t), 0, None)
    clean = (voice + 0.01 * generator(0).standard_normal(RATE)).astype(np.float32)
    noisy = (clean + 0.3 * generator(1).standard_normal(RATE)).astype(np.float32)
    signals = {"noisy": noisy, "clean": clean, "enhanced": clean.copy()}
    item = Item(key="k", test_set="s", seconds=1.0, language="en", text="hello there")
    return RecordingVersions(item=item, signals=signals, sample_rate=RATE)


def test_versions_are_scored_once_each_and_a_copy_of_the_clean_one_is_perfect(recording: RecordingVersions) -> None:
    noisy, enhanced, clean = Scorer(predicted_quality, Recogniser(), Speakers())([recording])
    assert [score.signal for score in (noisy, enhanced, clean)] == ["noisy", "enhanced", "clean"]
    assert (noisy.errors, enhanced.errors, clean.errors) == (1, 0, 0)
    assert (noisy.errors_clean, clean.errors_clean) == (1, None)
    assert enhanced.speaker_cosine == pytest.approx(1.0)
    assert enhanced.si_sdr_db == pytest.approx(100.0)
    assert enhanced.estoi == pytest.approx(1.0)
    assert clean.estoi is None
    assert noisy.ovrl > enhanced.ovrl == clean.ovrl


def test_without_networks_and_references_scores_are_none(recording: RecordingVersions) -> None:
    item = Item(key="k", test_set="s", seconds=1.0)
    alone = RecordingVersions(item=item, signals={"noisy": recording.signals["noisy"]}, sample_rate=RATE)
    (score,) = Scorer(predicted_quality)([alone])
    for name in ("errors", "errors_clean", "speaker_cosine", "estoi", "pesq_wb", "si_sdr_db"):
        assert getattr(score, name) is None
    assert (score.heard, score.missing) == ("", "")
    assert score.peak == pytest.approx(float(np.abs(recording.signals["noisy"]).max()), abs=1e-5)


def test_of_a_recording_without_speech_the_level_is_scored_and_no_word(recording: RecordingVersions) -> None:
    item = Item(key="k", test_set="s", seconds=1.0, has_speech=False)
    signals = {"noisy": 0.1 * np.sign(recording.signals["noisy"]), "enhanced": np.zeros(RATE, np.float32)}
    noisy, enhanced = Scorer(predicted_quality, Recogniser(), Speakers())(
        [RecordingVersions(item=item, signals=signals, sample_rate=RATE)]
    )
    assert noisy.residual_db == pytest.approx(-20.0, abs=0.01)
    assert enhanced.residual_db == -120.0
    assert (enhanced.heard, enhanced.errors, enhanced.speaker_cosine) == ("", None, None)


def test_of_speech_no_level_is_scored(recording: RecordingVersions) -> None:
    assert {score.residual_db for score in Scorer(predicted_quality)([recording])} == {None}
