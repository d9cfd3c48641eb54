"""Laws of training clips: they depend on their number alone, have the model's spelling, and are not held out."""

import numpy as np
import pytest
import torch
import whisper

from pipelines.corpora.demo.sentences import LANGUAGES, is_held_out
from pipelines.corpora.demo.speech import VARIANTS, phonemes
from pipelines.pretrain.whisper.augmentation import normalise
from pipelines.pretrain.whisper.clips import (
    CLIPS,
    HELD_OUT_VARIANTS,
    log_mel,
    plain_spelling,
    random_words,
    synthetic_clip,
    training_sentence,
    word_list,
)


def test_a_clip_is_a_pure_function_of_its_number() -> None:
    (clip, mel), (again, same), (other, _) = (synthetic_clip("de", i, 0) for i in (3, 3, 4))
    assert clip == again
    assert np.array_equal(mel, same)
    assert clip != other
    assert clip.frames == len(mel)


def test_held_out_sentences_and_voices_are_not_in_the_training() -> None:
    rng = np.random.default_rng(0)
    assert not any(is_held_out(training_sentence("en", rng)) for _ in range(100))
    assert set(HELD_OUT_VARIANTS) < set(VARIANTS)
    for i in range(8):
        speaker = synthetic_clip("en", i, 0)[0].speaker
        assert not any(f"-{variant.lower()}-p" in speaker for variant in HELD_OUT_VARIANTS)


def test_the_normalised_log_mel_equals_that_of_whisper() -> None:
    audio = np.random.default_rng(0).standard_normal(16_000).astype(np.float32)
    audio[8_000:] *= 1e-6
    ours = normalise(log_mel(audio))
    theirs = whisper.log_mel_spectrogram(torch.from_numpy(audio)).T.numpy()
    np.testing.assert_allclose(ours, theirs, atol=1e-4)


@pytest.mark.parametrize(
    ("language", "text", "expected"),
    [
        ("en", "The old clock, it's Anna's.", "the old clock it's anna's"),
        ("zh", "老师，今天 看书。", "老师今天看书"),
        ("ja", "わたしは パンを たべました。", "わたしはパンをたべました"),
        ("ar", "كِتَابٌ كَبِيرٌ.", "كتاب كبير"),
        ("de", "Für Grüße.", "für grüße"),
        ("ko", "책을 봅니다.", "책을 봅니다"),
    ],
)
def test_texts_get_the_plain_spelling(language: str, text: str, expected: str) -> None:
    assert plain_spelling(text, language) == expected
    assert plain_spelling(expected, language) == expected


@pytest.mark.parametrize("language", LANGUAGES)
def test_random_words_are_read_by_the_rules_of_their_language(language: str) -> None:
    assert len(word_list(language)) >= 50
    assert "(" not in phonemes(random_words(language, np.random.default_rng(0)), language)


def test_every_language_of_the_demo_is_trained() -> None:
    assert set(CLIPS) == set(LANGUAGES)
