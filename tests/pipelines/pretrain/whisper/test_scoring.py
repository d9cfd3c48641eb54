"""Scores, and what the embedded model must reach on sentences and voices that it never met."""

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
    ("language", "reference", "heard", "expected"),
    [
        ("en", "The old clock.", "the old clock", 0.0),
        ("en", "The old clock.", "the clock", 1 / 3),
        ("zh", "老师看书。", "老师 看车", 1 / 4),
    ],
)
def test_errors_are_of_words_or_of_characters(language: str, reference: str, heard: str, expected: float) -> None:
    assert error_rate(language, [reference], [heard]) == pytest.approx(expected)


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
    tokenizer_for("en")  # once a process, and quietly: whisper leaves its vocabulary's file open
    return whisper.load_model(str(resolve("whisper-tiny") / "model.pt"), device="cpu")


def test_the_embedded_model_tells_english_and_mandarin_from_the_rest(shipped: whisper.Whisper) -> None:
    scores = score(shipped, [Example(e.audio, e.language, "") for e in unseen(LANGUAGES, 3, seed=1)], 1, sample_len=1)
    assert np.mean([s.sided for s in scores.values()]) >= 0.9
    assert scores["en"].right == scores["zh"].right == 1.0
    assert "| all | 39 |" in table(scores)


# openai-whisper sorts tensors with NumPy.
@pytest.mark.filterwarnings("ignore:__array_wrap__ must accept:DeprecationWarning")
def test_the_embedded_model_reads_what_its_card_says_of_english_and_mandarin(shipped: whisper.Whisper) -> None:
    """The card's WER and CER are of 40 sentences each; here others, fewer, and a margin."""
    scores = score(shipped, unseen(("en", "zh"), 10, seed=1))
    assert (scores["en"].errors or 0) < 0.25
    assert (scores["zh"].errors or 0) < 0.25


def test_the_embedded_model_is_small() -> None:
    assert (resolve("whisper-tiny") / "model.pt").stat().st_size < 20e6
