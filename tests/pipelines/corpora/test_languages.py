"""Language labels of corpora all come to the codes that the language filter decides by."""

from __future__ import annotations

import pytest

from pipelines.corpora.languages import canonical


@pytest.mark.parametrize(
    "label",
    [
        "zh",
        "zh-CN",
        "zh_TW",
        "ZH",
        "Chinese",
        "Mandarin",
        "cmn",
        "cmn-Hans-CN",
        "zho",
        "chi",
        "yue",
        "Cantonese",
        "中文",
        "Chinese (Mandarin)",
        "Mandarin Chinese",
        " zh ",
    ],
)
def test_chinese_is_zh_by_any_name(label: str) -> None:
    assert canonical(label) == "zh"


@pytest.mark.parametrize(
    ("label", "code"),
    [
        ("EN", "en"),
        ("English", "en"),
        ("en-GB", "en"),
        ("EN_us", "en"),
        ("eng", "en"),
        ("German", "de"),
        ("deu", "de"),
        ("French", "fr"),
        ("xx", "xx"),
        ("", ""),
    ],
)
def test_other_languages_have_their_code(label: str, code: str) -> None:
    assert canonical(label) == code


def test_every_language_of_whispers_is_found_by_its_name_and_codes_stay() -> None:
    from whisper.tokenizer import LANGUAGES

    for code, name in LANGUAGES.items():
        expected = "zh" if code == "yue" else code
        assert canonical(name) == canonical(name.title()) == expected
        assert canonical(code) == expected


def test_what_nobody_knows_stays_and_twice_is_once() -> None:
    assert canonical("Klingon") == "klingon"
    for label in ("zh-CN", "Klingon", "English", "haw"):
        assert canonical(canonical(label)) == canonical(label)
