"""Laws of simplification: traditional and mixed text become simplified, simplified text stays as it is."""

from __future__ import annotations

import pytest

pytest.importorskip("opencc", reason="the [pipeline] extra is not installed")

from flowse.chinese import simplify


@pytest.mark.parametrize(
    ("mixed", "simplified"), [("今天天氣很好", "今天天气很好"), ("電话", "电话"), ("頭髮", "头发")]
)
def test_traditional_characters_become_simplified_and_stay_so(mixed: str, simplified: str) -> None:
    assert simplify(mixed) == simplified
    assert simplify(simplify(mixed)) == simplified


def test_text_that_is_not_chinese_stays_as_it_is() -> None:
    assert simplify("naïve Straße, ça va? 123") == "naïve Straße, ça va? 123"
