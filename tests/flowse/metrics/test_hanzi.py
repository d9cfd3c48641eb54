"""Laws of the script table: every pair is traditional to simplified and sounds the same."""

import pytest

from flowse.metrics.hanzi import _PAIRS, simplify

PAIRS = [(line[i], line[i + 1]) for line in _PAIRS.split() for i in range(0, len(line), 2)]


def test_no_pair_leads_to_another_and_none_contradicts() -> None:
    for traditional, simplified in PAIRS:
        assert simplify(traditional) == simplified
        assert simplify(simplified) == simplified


def test_simplified_characters_are_in_the_simplified_standard() -> None:
    outside = []
    for _, simplified in PAIRS:
        try:
            simplified.encode("gb2312")
        except UnicodeEncodeError:
            outside.append(simplified)
    assert len(outside) <= 3, outside  # rare ones that GB 2312 left out


def test_both_of_a_pair_are_read_alike() -> None:
    pypinyin = pytest.importorskip("pypinyin", reason="the [pipeline] extra is not installed")

    def readings(character: str) -> set[str]:
        return set(pypinyin.pinyin(character, style=pypinyin.Style.NORMAL, heteronym=True)[0])

    assert [pair for pair in PAIRS if not readings(pair[0]) & readings(pair[1])] == []
