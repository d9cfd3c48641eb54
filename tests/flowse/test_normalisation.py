"""Laws of normalisation: what people read alike becomes alike, and doing it twice changes nothing."""

from __future__ import annotations

import pytest

from flowse.normalisation import plain, tidy


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("  So: Thanks  for\nWATCHING! ", "so thanks for watching"),
        ("ﬁve €", "five"),
        ("ＡＢＣ，１２３", "abc 123"),
        ("…", ""),
        ("好的，谢谢。", "好的 谢谢"),
    ],
)
def test_case_forms_and_punctuation_are_folded(text: str, expected: str) -> None:
    assert plain(text) == expected
    assert plain(expected) == expected


def test_tidy_text_reads_as_before() -> None:
    assert tidy(" A  dog\tran. ", "en") == "A dog ran."
    assert tidy("e\u0301te\u0301", "fr") == "été"


def test_only_chinese_is_simplified_and_only_on_request() -> None:
    assert tidy("漢語", "zh") == "汉语"
    assert tidy("漢語", "zh", simplified=False) == "漢語"
    assert tidy("漢語", "ja") == "漢語"
