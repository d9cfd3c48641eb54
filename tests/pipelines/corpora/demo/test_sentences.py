"""Laws of sentences: every grammar is complete, and the generator decides the sentence."""

import re

import numpy as np
import pytest

from pipelines.corpora.demo.sentences import LANGUAGES, grammar, is_held_out, sentence

SCRIPTS = {
    "ar": r"[\u0600-\u06ff .]+",
    "ja": r"[\u3040-\u30ffー。 ]+",
    "ko": r"[\uac00-\ud7a3 .]+",
    "ru": r"[а-яёА-ЯЁ .]+",
    "zh": r"[\u4e00-\u9fff。]+",
}
LATIN = r"[A-Za-zÀ-ÿĀ-ſ'. -]+"


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_symbol_is_defined_and_used(language: str) -> None:
    rules = grammar(language)
    used = {
        name
        for alternatives in rules.values()
        for alternative in alternatives
        for name in re.findall(r"\{(\w+)\}", alternative)
    }
    assert used | {"sentence"} == set(rules)
    assert all(alternative for alternatives in rules.values() for alternative in alternatives)


@pytest.mark.parametrize("language", LANGUAGES)
def test_sentences_are_written_in_the_script_of_the_language_without_digits(language: str) -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        assert re.fullmatch(SCRIPTS.get(language, LATIN), sentence(language, rng))


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_generator_decides_the_sentence_and_sentences_rarely_repeat(language: str) -> None:
    first, again = ([sentence(language, rng) for _ in range(200)] for rng in map(np.random.default_rng, (1, 1)))
    assert first == again
    assert len(set(first)) > 150


def test_about_a_tenth_of_all_sentences_is_held_out() -> None:
    rng = np.random.default_rng(0)
    texts = [sentence("en", rng) for _ in range(2_000)]
    held_out = [is_held_out(text) for text in texts]
    assert 0.07 < np.mean(held_out) < 0.13
    assert held_out == [is_held_out(text) for text in texts]
    assert not any(is_held_out(text, share=0.0) for text in texts)
    assert all(is_held_out(text, share=1.0) for text in texts)


def test_an_unknown_language_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"'xx'.*en"):
        sentence("xx", np.random.default_rng(0))
