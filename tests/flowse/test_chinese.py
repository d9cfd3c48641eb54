"""Simplification: traditional and mixed text become simplified, and simplified text stays."""

from __future__ import annotations

import pytest

pytest.importorskip("opencc", reason="the [pipeline] extra is not installed")

from flowse.chinese import simplify


@pytest.mark.parametrize(
    ("mixed", "simplified"), [("今天天氣很好", "今天天气很好"), ("電话", "电话"), ("頭髮", "头发")]
)
def test_traditional_becomes_simplified_once_and_for_all(mixed: str, simplified: str) -> None:
    assert simplify(mixed) == simplified
    assert simplify(simplify(mixed)) == simplified


def test_what_is_not_chinese_stays() -> None:
    assert simplify("naïve Straße, ça va? 123") == "naïve Straße, ça va? 123"
