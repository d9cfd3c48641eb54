"""Laws of the labeller: batches change nothing, a recording has one transcript, silence is an answer."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
import whisper

from flowse.whisper.config import Decoding, WhisperConfig
from flowse.whisper.engine import DecodedWindow
from flowse.whisper.labeller import Labeller
from flowse.whisper.transcript import Transcript
from flowse.whisper.windows import SAMPLE_RATE
from tests.tiny import syllables, write_whisper


@pytest.fixture(scope="module")
def labeller(checkpoint: Path) -> Labeller:
    return Labeller(WhisperConfig(model=str(checkpoint)))


RECORDINGS = [syllables(seconds, seed) for seed, seconds in enumerate([1.0, 4.5, 13.0, 0.4, 2.0])]


def close(first: Transcript, second: Transcript) -> bool:
    same = (first.text, first.language, first.tokens) == (second.text, second.language, second.tokens)
    logprobs = np.isclose(first.avg_logprob, second.avg_logprob, atol=1e-4)
    return bool(same and logprobs and np.isclose(first.no_speech_prob, second.no_speech_prob, atol=1e-4))


def test_the_random_model_transcribes_recordings_differently(labeller: Labeller) -> None:
    """Otherwise the laws below would hold of a model that ignores its input."""
    assert len({transcript.text for transcript in labeller.transcribe(RECORDINGS, ["en"] * 5)}) > 1


@pytest.mark.parametrize("batch_size", [1, 2, 16])
def test_order_and_batches_do_not_change_results(checkpoint: Path, labeller: Labeller, batch_size: int) -> None:
    languages = ["en", "zh", "en", None, "fr"]
    expected = labeller.transcribe(RECORDINGS, languages)
    order = [3, 0, 4, 2, 1]
    found = Labeller(WhisperConfig(model=str(checkpoint), batch_size=batch_size)).transcribe(
        [RECORDINGS[i] for i in order], [languages[i] for i in order]
    )
    assert all(close(found[place], expected[i]) for place, i in enumerate(order))


def test_one_by_one_equals_batched(labeller: Labeller) -> None:
    together = labeller.detect_language(RECORDINGS)
    for alone, probabilities in zip(RECORDINGS, together, strict=True):
        single = labeller.detect_language([alone])[0]
        assert single == pytest.approx(probabilities, abs=1e-5)
        assert sum(probabilities.values()) == pytest.approx(1, abs=1e-5)


def test_a_loud_neighbour_does_not_change_a_quiet_recording(labeller: Labeller) -> None:
    quiet, loud = syllables(2.0, 7, level=0.005), syllables(2.0, 8, level=0.9)
    assert close(
        *(labeller.transcribe(waveforms, ["en"] * len(waveforms))[0] for waveforms in ([quiet], [quiet, loud]))
    )


def test_silence_around_speech_does_not_change_its_language(labeller: Labeller) -> None:
    speech = RECORDINGS[1]
    padded = np.concatenate([np.zeros(5 * SAMPLE_RATE), speech, np.zeros(9 * SAMPLE_RATE)]).astype(np.float32)
    assert labeller.detect_language([padded])[0] == pytest.approx(labeller.detect_language([speech])[0], abs=0.02)


@pytest.mark.parametrize(
    "waveform",
    [
        np.zeros(0, np.float32),
        np.zeros(20 * SAMPLE_RATE, np.float32),
        np.full(SAMPLE_RATE, np.nan, np.float32),
        np.zeros(1, np.float32),
    ],
    ids=["empty", "silent", "nan", "one sample"],
)
def test_nothing_audible_is_an_answer(labeller: Labeller, waveform: np.ndarray) -> None:
    assert labeller.detect_language([waveform, RECORDINGS[0]])[0] == {}
    nothing, something = labeller.transcribe([waveform, RECORDINGS[0]], [None, "en"])
    assert nothing == Transcript(text="", language="")
    assert something.tokens > 0


def test_samples_that_are_not_finite_count_as_silence(labeller: Labeller) -> None:
    holed, broken = RECORDINGS[1].copy(), RECORDINGS[1].copy()
    holed[8000:9000] = 0
    broken[8000:8500], broken[8500:9000] = np.nan, np.inf
    assert close(*labeller.transcribe([holed, broken], ["en", "en"]))


def test_no_recordings_give_no_results(labeller: Labeller) -> None:
    assert labeller.detect_language([]) == []
    assert labeller.transcribe([]) == []


def test_agreement_with_whispers_own_transcribe(tmp_path: Path) -> None:
    """The reference is openai-whisper itself, one 30-s window, same settings."""
    labeller = Labeller(WhisperConfig(model=str(write_whisper(tmp_path / "model.pt", audio_ctx=1500))))
    assert labeller.window == 30 * SAMPLE_RATE
    waveform = syllables(29.99, 3)
    mel = whisper.log_mel_spectrogram(whisper.pad_or_trim(waveform))
    options = whisper.DecodingOptions(language="en", without_timestamps=True, fp16=False)
    expected = labeller.engine.model.decode(mel, options)
    found = labeller.transcribe([waveform], ["en"], Decoding(beam_size=1))[0]
    assert found.text == expected.text
    assert found.avg_logprob == pytest.approx(expected.avg_logprob, abs=1e-3)
    assert found.no_speech_prob == pytest.approx(expected.no_speech_prob, abs=1e-3)
    assert found.compression_ratio == pytest.approx(expected.compression_ratio)


def test_beam_search_is_deterministic(labeller: Labeller) -> None:
    first, second = (labeller.transcribe(RECORDINGS[:2], ["en", "en"], Decoding(beam_size=2)) for _ in range(2))
    assert first == second


class Loops:
    """An engine whose beam search repeats a word; greedily it does not, where `helps` says so."""

    languages, multilingual, n_mels, n_audio_ctx, n_text_ctx = ("en",), False, 80, 1500, 448

    def __init__(self, helps: bool) -> None:
        self.helps = helps

    def detect_language(self, mel: torch.Tensor) -> list[dict[str, float]]:
        return [{"en": 1.0}] * len(mel)

    def decode(
        self, mel: torch.Tensor, language: str, most_tokens: Sequence[int], beam_size: int
    ) -> list[DecodedWindow]:
        # The longer recording loops, the shorter one is spoken plainly.
        loops = [most > 160 for most in most_tokens]
        texts = ["one, " * (60 if beam_size > 1 or not self.helps else 1) if loop else "a plain text" for loop in loops]
        return [DecodedWindow(text=text.strip(), avg_logprob=-0.1, no_speech_prob=0.0, tokens=9) for text in texts]


@pytest.mark.parametrize(("helps", "expected"), [(True, "one,"), (False, ("one, " * 60).strip())])
def test_a_window_whose_text_loops_is_decoded_again_greedily(labeller: Labeller, helps: bool, expected: str) -> None:
    """A real Whisper base heard one word 75 times in a clip that is plain to it at half the level."""
    looping = copy.copy(labeller)
    looping.engine = Loops(helps)
    found = looping.transcribe([syllables(2.0, 1), syllables(8.0, 2)], ["en", "en"])
    assert [transcript.text for transcript in found] == ["a plain text", expected]


def test_an_unknown_language_is_named(labeller: Labeller) -> None:
    with pytest.raises(ValueError, match="klingon"):
        labeller.transcribe(RECORDINGS[:1], ["klingon"])


def test_an_english_model_says_that_it_cannot_detect_languages(tmp_path: Path) -> None:
    english = Labeller(WhisperConfig(model=str(write_whisper(tmp_path / "model.pt", audio_ctx=300, vocabulary=51864))))
    assert english.languages == ("en",)
    with pytest.raises(ValueError, match="multilingual"):
        english.detect_language(RECORDINGS[:1])
    assert english.transcribe(RECORDINGS[:1])[0].language == "en"


def test_a_file_that_is_no_checkpoint_is_named(tmp_path: Path) -> None:
    torch.save({"weights": torch.zeros(1)}, tmp_path / "other.pt")
    (tmp_path / "text.pt").write_text("not a checkpoint")
    for name in ("other.pt", "text.pt"):
        with pytest.raises(ValueError, match=f"{name}.*not a checkpoint"):
            Labeller(WhisperConfig(model=str(tmp_path / name)))
