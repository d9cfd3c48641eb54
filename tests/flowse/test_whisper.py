"""Laws of the labeller: batches change nothing, windows cover all exactly once, silence is an answer."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import whisper
from hypothesis import given, settings
from hypothesis import strategies as st

from flowse.seeding import generator
from flowse.whisper import (
    SAMPLE_RATE,
    Decoding,
    Labeller,
    Transcript,
    join_transcripts,
    split_windows,
)
from flowse.whisper_engines import PATIENCE
from tests.tiny import write_whisper


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that hears 6 s at once."""
    return write_whisper(tmp_path_factory.mktemp("whisper") / "model.pt", audio_ctx=300)


@pytest.fixture(scope="module")
def labeller(checkpoint: Path) -> Labeller:
    return Labeller(checkpoint)


def speechlike(seconds: float, seed: int, level: float = 0.1) -> np.ndarray:
    """Filtered noise that comes and goes as syllables do."""
    rng = generator(seed)
    n = round(seconds * SAMPLE_RATE)
    rate = rng.uniform(2, 5)
    envelope = np.maximum(0.01, np.sin(np.arange(n) * 2 * np.pi * rate / SAMPLE_RATE))
    tone = np.sin(np.arange(n) * 2 * np.pi * rng.uniform(100, 1000) / SAMPLE_RATE)
    return (level * envelope * (tone + 0.3 * rng.standard_normal(n))).astype(np.float32)


RECORDINGS = [speechlike(seconds, seed) for seed, seconds in enumerate([1.0, 4.5, 13.0, 0.4, 2.0])]


def close(one: Transcript, other: Transcript) -> bool:
    return (one.text, one.language, one.tokens) == (other.text, other.language, other.tokens) and np.allclose(
        (one.avg_logprob, one.no_speech_prob), (other.avg_logprob, other.no_speech_prob), atol=1e-4
    )


def test_the_random_model_tells_recordings_apart(labeller: Labeller) -> None:
    """Otherwise the laws below would hold of a model that ignores its input."""
    assert len({transcript.text for transcript in labeller.transcribe(RECORDINGS, ["en"] * 5)}) > 1


@pytest.mark.parametrize("batch_size", [1, 2, 16])
def test_order_and_batches_do_not_change_results(checkpoint: Path, labeller: Labeller, batch_size: int) -> None:
    languages = ["en", "zh", "en", None, "fr"]
    expected = labeller.transcribe(RECORDINGS, languages)
    order = [3, 0, 4, 2, 1]
    found = Labeller(checkpoint, batch_size=batch_size).transcribe(
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
    quiet, loud = speechlike(2.0, 7, level=0.005), speechlike(2.0, 8, level=0.9)
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


@settings(deadline=None)
@given(
    st.lists(st.floats(0.0, 1.0), min_size=0, max_size=120),
    st.integers(min_value=20, max_value=400),
    st.integers(min_value=0, max_value=2**31),
)
def test_windows_cover_every_sample_exactly_once(levels: list[float], longest: int, seed: int) -> None:
    waveform = np.repeat(np.asarray(levels, dtype=np.float32), 37) * generator(seed).standard_normal(37 * len(levels))
    windows = split_windows(waveform.astype(np.float32), longest, sample_rate=100)
    assert [start for start, _ in windows[:1]] == [0] * bool(levels)
    assert all(stop == start for (_, stop), (start, _) in pairwise(windows))
    assert windows[-1][1] == len(waveform) if levels else windows == []
    assert all(0 < stop - start <= longest for start, stop in windows)


def test_windows_are_cut_in_the_pause(labeller: Labeller) -> None:
    pause = np.zeros(SAMPLE_RATE // 2, np.float32)
    waveform = np.concatenate([speechlike(4.0, 1), pause, speechlike(4.0, 2)])
    (_, cut), _ = split_windows(waveform, labeller.window)
    assert 4.0 < cut / SAMPLE_RATE < 4.5


def test_a_window_of_the_models_own_length_stays_whole(labeller: Labeller) -> None:
    assert split_windows(np.ones(labeller.window, np.float32), labeller.window) == [(0, labeller.window)]


def test_agreement_with_whispers_own_transcribe(tmp_path: Path) -> None:
    """The reference is openai-whisper itself, one 30-s window, same settings."""
    labeller = Labeller(write_whisper(tmp_path / "model.pt", audio_ctx=1500))
    assert labeller.window == 30 * SAMPLE_RATE
    waveform = speechlike(29.99, 3)
    mel = whisper.log_mel_spectrogram(whisper.pad_or_trim(waveform))
    options = whisper.DecodingOptions(language="en", without_timestamps=True, fp16=False)
    expected = labeller.engine.model.decode(mel, options)
    found = labeller.transcribe([waveform], ["en"], Decoding(beam_size=1))[0]
    assert found.text == expected.text
    assert found.avg_logprob == pytest.approx(expected.avg_logprob, abs=1e-3)
    assert found.no_speech_prob == pytest.approx(expected.no_speech_prob, abs=1e-3)
    assert found.compression_ratio == pytest.approx(expected.compression_ratio)


# openai-whisper sorts tensors with NumPy.
@pytest.mark.filterwarnings("ignore:__array_wrap__ must accept:DeprecationWarning")
@pytest.mark.parametrize("beams", [1, 2, 5])
def test_windows_of_many_lengths_and_limits_are_decoded_together_as_alone(beams: int, tmp_path: Path) -> None:
    """The reference is openai-whisper's own searches, window by window, each with its own limit of tokens."""
    labeller = Labeller(write_whisper(tmp_path / "model.pt", audio_ctx=300, text_ctx=48), batch_size=16)
    mel = labeller._mel([speechlike(seconds, seed) for seed, seconds in enumerate([0.5, 2.0, 5.9, 4.0, 1.0])])
    limits = [3, 24, 1, 10, 17]
    found = labeller.engine.decode(mel, "en", limits, beams)
    for window, limit, heard in zip(mel, limits, found, strict=True):
        options = whisper.DecodingOptions(
            language="en",
            without_timestamps=True,
            fp16=False,
            sample_len=limit,
            beam_size=beams if beams > 1 else None,
            patience=PATIENCE if beams > 1 else None,
        )
        expected = labeller.engine.model.decode(window, options)
        assert (heard.text, heard.tokens) == (expected.text, len(expected.tokens) + 1)
        assert heard.avg_logprob == pytest.approx(expected.avg_logprob, abs=1e-4)
        assert heard.no_speech_prob == pytest.approx(expected.no_speech_prob, abs=1e-5)


def test_joining_is_associative_and_silence_is_its_neutral_element() -> None:
    parts = [
        Transcript(text=text, language="en", avg_logprob=-0.1 * n, no_speech_prob=0.1 * n, tokens=n, seconds=float(n))
        for n, text in enumerate(["one two", "", "three"], start=1)
    ]
    whole = join_transcripts(parts, "en")
    assert whole.text == "one two three"
    nested = join_transcripts([join_transcripts(parts[:2], "en"), Transcript(text="", language="en"), parts[2]], "en")
    assert close(whole, nested)
    assert join_transcripts([], "en") == Transcript(text="", language="en")


def test_chinese_windows_are_joined_without_a_space() -> None:
    parts = [Transcript(text=text, language="zh", tokens=2, seconds=1.0) for text in ("你好", "世界")]
    assert join_transcripts(parts, "zh").text == "你好世界"


def test_beam_search_is_deterministic(labeller: Labeller) -> None:
    first, second = (labeller.transcribe(RECORDINGS[:2], ["en", "en"], Decoding(beam_size=2)) for _ in range(2))
    assert first == second


def test_an_unknown_language_is_named(labeller: Labeller) -> None:
    with pytest.raises(ValueError, match="klingon"):
        labeller.transcribe(RECORDINGS[:1], ["klingon"])


def test_an_english_model_says_that_it_cannot_tell_languages(tmp_path: Path) -> None:
    english = Labeller(write_whisper(tmp_path / "model.pt", audio_ctx=300, vocabulary=51864))
    assert english.languages == ("en",)
    with pytest.raises(ValueError, match="multilingual"):
        english.detect_language(RECORDINGS[:1])
    assert english.transcribe(RECORDINGS[:1])[0].language == "en"
