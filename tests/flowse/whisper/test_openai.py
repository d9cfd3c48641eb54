"""Laws of the torch engine: it decodes as openai-whisper does, window by window, and beams find what is likeliest."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import whisper

from flowse.audio.waveform import resample
from flowse.seeding import generator
from flowse.whisper.config import PATIENCE, Decoding, WhisperConfig
from flowse.whisper.labeller import Labeller
from flowse.whisper.openai import OpenAiEngine
from flowse.whisper.windows import SAMPLE_RATE
from pipelines.corpora.demo.sentences import sentence
from pipelines.corpora.demo.speech import SAMPLE_RATE as SPEECH_RATE
from pipelines.corpora.demo.speech import Voice, synthesise
from tests.tiny import syllables, write_whisper


def test_half_precision_on_a_cpu_is_refused(checkpoint: Path) -> None:
    with pytest.raises(ValueError, match="on a GPU only"):
        OpenAiEngine(WhisperConfig(model=str(checkpoint), compute="float16"), torch.device("cpu"))


# openai-whisper sorts tensors with NumPy.
@pytest.mark.filterwarnings("ignore:__array_wrap__ must accept:DeprecationWarning")
@pytest.mark.parametrize("beams", [1, 2, 5])
def test_windows_of_many_lengths_and_limits_are_decoded_together_as_alone(beams: int, tmp_path: Path) -> None:
    """The reference is openai-whisper's own searches, window by window, each with its own limit of tokens."""
    model = write_whisper(tmp_path / "model.pt", audio_ctx=300, text_ctx=48)
    labeller = Labeller(WhisperConfig(model=str(model)))
    mel = labeller._mel([syllables(seconds, seed) for seed, seconds in enumerate([0.5, 2.0, 5.9, 4.0, 1.0])])
    limits = [3, 24, 1, 10, 17]
    found = labeller.engine.decode(mel, "en", limits, beams)
    for window, limit, decoded in zip(mel, limits, found, strict=True):
        options = whisper.DecodingOptions(
            language="en",
            without_timestamps=True,
            fp16=False,
            sample_len=limit,
            beam_size=beams if beams > 1 else None,
            patience=PATIENCE if beams > 1 else None,
        )
        expected = labeller.engine.model.decode(window, options)
        assert (decoded.text, decoded.tokens) == (expected.text, len(expected.tokens) + 1)
        assert decoded.avg_logprob == pytest.approx(expected.avg_logprob, abs=1e-4)
        assert decoded.no_speech_prob == pytest.approx(expected.no_speech_prob, abs=1e-5)


# openai-whisper sorts tensors with NumPy.
@pytest.mark.filterwarnings("ignore:__array_wrap__ must accept:DeprecationWarning")
def test_beams_of_many_windows_end_where_openai_whispers_end_one_by_one(spoken: list[np.ndarray]) -> None:
    labeller = Labeller(WhisperConfig())
    windows = labeller._mel(spoken[:3])
    found = labeller.engine.decode(windows, "en", [60, 80, 40], 5)
    for window, limit, decoded in zip(windows, (60, 80, 40), found, strict=True):
        options = whisper.DecodingOptions(
            language="en", without_timestamps=True, fp16=False, beam_size=5, patience=PATIENCE, sample_len=limit
        )
        expected = labeller.engine.model.decode(window, options)
        assert (decoded.text, decoded.tokens) == (expected.text, len(expected.tokens) + 1)
        assert decoded.avg_logprob == pytest.approx(expected.avg_logprob, abs=1e-4)


def test_beams_find_what_the_greedy_search_finds_or_what_is_likelier() -> None:
    """With a patience of 1 a search ended at its first five ends, all of them too early: every letter offers an end."""
    labeller = Labeller(WhisperConfig())
    voice = Voice("ar", "m3", pitch=50, rate=160, pitch_range=50)
    texts = [sentence("ar", generator(number)) for number in range(7)]
    recordings = [resample(synthesise(text, voice), SPEECH_RATE, SAMPLE_RATE) for text in texts]
    greedy, beams = (labeller.transcribe(recordings, ["ar"] * 7, Decoding(beam_size=size)) for size in (1, 5))
    for by_greedy, by_beams in zip(greedy, beams, strict=True):
        assert by_beams.avg_logprob > by_greedy.avg_logprob - 0.01
