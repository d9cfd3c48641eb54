"""Laws of the CTranslate2 engine: it transcribes as the torch engine does, from a checkpoint or a folder of its own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from flowse.seeding import generator
from flowse.whisper.config import Decoding, WhisperConfig
from flowse.whisper.conversion import convert
from flowse.whisper.labeller import Labeller
from flowse.whisper.windows import SAMPLE_RATE

pytest.importorskip("ctranslate2", reason="pip install '.[faster]'")


def test_both_backends_transcribe_alike(spoken: list[np.ndarray]) -> None:
    """The embedded model, converted; the reference is openai-whisper."""
    openai, ctranslate = Labeller(WhisperConfig()), Labeller(WhisperConfig(backend="faster-whisper"))
    assert (openai.languages, openai.window) == (ctranslate.languages, ctranslate.window)
    reference = openai.detect_language(spoken)
    for expected, found in zip(reference, ctranslate.detect_language(spoken), strict=True):
        assert found == pytest.approx(expected, abs=1e-4)
    languages = [max(probabilities, key=probabilities.__getitem__) for probabilities in reference]
    transcripts = (labeller.transcribe(spoken, languages) for labeller in (openai, ctranslate))
    for expected, found in zip(*transcripts, strict=True):
        assert (found.text, found.language, found.tokens) == (expected.text, expected.language, expected.tokens)
        assert found.avg_logprob == pytest.approx(expected.avg_logprob, abs=1e-3)
        assert found.no_speech_prob == pytest.approx(expected.no_speech_prob, abs=1e-3)
        assert found.compression_ratio == expected.compression_ratio


def test_eight_bits_detect_the_same_languages(spoken: list[np.ndarray]) -> None:
    exact = Labeller(WhisperConfig()).detect_language(spoken[:4])
    coarse = Labeller(WhisperConfig(backend="faster-whisper", compute="int8")).detect_language(spoken[:4])
    for expected, found in zip(exact, coarse, strict=True):
        assert max(found, key=found.__getitem__) == max(expected, key=expected.__getitem__)


def test_any_size_of_model_is_converted(checkpoint: Path, tmp_path: Path) -> None:
    """Another window, another context, random weights: the converted folder decodes as the checkpoint does."""
    convert(checkpoint, tmp_path / "folder")
    original = Labeller(WhisperConfig(model=str(checkpoint)))
    converted = Labeller(WhisperConfig(model=str(tmp_path / "folder"), backend="faster-whisper"))
    assert original.window == converted.window == 6 * SAMPLE_RATE
    sounds = [0.1 * generator(n).standard_normal(n * SAMPLE_RATE).astype(np.float32) for n in (1, 4, 9)]
    for beams in (1, 2):
        decoding = Decoding(beam_size=beams)
        found = converted.transcribe(sounds, ["en"] * 3, decoding)
        assert found == converted.transcribe(sounds, ["en"] * 3, decoding)
        if beams == 1:
            expected = original.transcribe(sounds, ["en"] * 3)
            assert [transcript.text for transcript in found] == [transcript.text for transcript in expected]
