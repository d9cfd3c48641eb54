"""Laws of word errors: known pairs in both scripts, and each kind of error is counted as such."""

import math

import pytest

pytest.importorskip("whisper", reason="the [pipeline] extra is not installed")

from flowse.metrics.wer import TokenErrors, token_errors, tokens


@pytest.mark.parametrize(
    ("reference", "hypothesis", "language", "errors", "length"),
    [
        ("Please call Stella.", "please call stella", "en", 0, 3),
        ("the colour", "the color", "en", 0, 2),
        ("She won't pay twenty dollars", "she will not pay $20", "en", 0, 5),
        ("one cat sat", "one bat sat down", "en", 2, 3),
        ("今天天气很好。", "今天天氣很好", "zh", 0, 6),
        ("今天天气很好", "今天天很好吗", "zh", 2, 6),
        ("我用 iPhone 打电话", "我用iphone打電話", "zh", 0, 6),
        ("Ça va bien, merci !", "ça va bien merci", "fr", 0, 4),
        ("word", "", "en", 1, 1),
        ("", "two words", "en", 2, 0),
    ],
)
def test_known_pairs(reference: str, hypothesis: str, language: str, errors: int, length: int) -> None:
    found = token_errors(reference, hypothesis, language)
    assert (found.count, found.length) == (errors, length)


def test_kinds_of_errors() -> None:
    assert token_errors("a b c d", "x b c d e", "fr") == TokenErrors(1, 0, 1, 4)
    assert token_errors("a b c d", "b c d", "fr") == TokenErrors(0, 1, 0, 4)


def test_the_rate_is_per_token_of_the_reference() -> None:
    assert TokenErrors(1, 1, 1, 10).rate == pytest.approx(0.3)
    assert math.isnan(TokenErrors(insertions=2).rate)


def test_numbers_and_hanzi_are_single_tokens() -> None:
    assert tokens("第1章：開始 now", "zh") == ("第", "1", "章", "开", "始", "now")
