"""Laws of the scores, and the scores that the embedded model must reach on unseen sentences and voices."""

from pathlib import Path

import numpy as np
import pytest
import whisper

from flowse.pretrained import resolve
from pipelines.corpora.demo.sentences import LANGUAGES, is_held_out
from pipelines.pretrain.whisper.scoring import Example, error_rate, real, score, table, unseen
from pipelines.pretrain.whisper.vocabulary import tokenizer_for


def test_unseen_examples_are_held_out_and_repeatable() -> None:
    first, again = (list(unseen(["en", "zh"], 2)) for _ in range(2))
    assert [example.text for example in first] == [example.text for example in again]
    assert all(np.array_equal(a.audio, b.audio) for a, b in zip(first, again, strict=True))
    assert all(is_held_out(example.text) for example in first)


@pytest.mark.parametrize(
    ("language", "reference", "transcript", "expected"),
    [
        ("en", "The old clock.", "the old clock", 0.0),
        ("en", "The old clock.", "the clock", 1 / 3),
        ("zh", "老师看书。", "老师 看车", 1 / 4),
    ],
)
def test_the_error_rate_counts_words_or_characters(
    language: str, reference: str, transcript: str, expected: float
) -> None:
    assert error_rate(language, [reference], [transcript]) == pytest.approx(expected)


def test_recordings_come_from_the_manifest(tmp_path: Path) -> None:
    import soundfile

    (tmp_path / "dev").mkdir()
    soundfile.write(tmp_path / "dev" / "a.wav", np.zeros((4_410, 2)), 44_100)
    (tmp_path / "manifest.csv").write_text("path,language,text\ndev/a.wav,de,ja\nother/b.wav,en,\n", encoding="utf-8")
    (example,) = real(tmp_path, "dev")
    assert (example.language, example.text) == ("de", "ja")
    assert example.audio.shape == (1_600,)


@pytest.fixture(scope="module")
def shipped() -> whisper.Whisper:
    tokenizer_for("en")  # cached without its warning: whisper leaves the file of its vocabulary open
    return whisper.load_model(str(resolve("whisper-tiny") / "model.pt"), device="cpu")


def test_the_embedded_model_separates_english_and_mandarin_from_other_languages(shipped: whisper.Whisper) -> None:
    scores = score(shipped, [Example(e.audio, e.language, "") for e in unseen(LANGUAGES, 3, seed=1)], 1, sample_len=1)
    assert np.mean([s.filter_accuracy for s in scores.values()]) >= 0.9
    assert scores["en"].language_accuracy == scores["zh"].language_accuracy == 1.0
    assert "| all | 39 |" in table(scores)


# openai-whisper sorts tensors with NumPy.
@pytest.mark.filterwarnings("ignore:__array_wrap__ must accept:DeprecationWarning")
def test_the_embedded_model_transcribes_english_and_mandarin_about_as_its_card_says(shipped: whisper.Whisper) -> None:
    """The card gives WER and CER of 40 sentences each; the test uses fewer and other sentences, and a margin."""
    scores = score(shipped, unseen(("en", "zh"), 10, seed=1))
    assert (scores["en"].error_rate or 0) < 0.25
    assert (scores["zh"].error_rate or 0) < 0.25


def test_the_embedded_model_is_small() -> None:
    assert (resolve("whisper-tiny") / "model.pt").stat().st_size < 20e6
