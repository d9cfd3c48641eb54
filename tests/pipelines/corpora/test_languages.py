"""Laws of language labels: all labels of a language have the code that the language filter compares."""

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


def test_every_language_of_whisper_is_found_by_its_name_and_codes_stay() -> None:
    from whisper.tokenizer import LANGUAGES

    for code, name in LANGUAGES.items():
        expected = "zh" if code == "yue" else code
        assert canonical(name) == canonical(name.title()) == expected
        assert canonical(code) == expected


def test_an_unknown_label_stays_and_the_code_of_a_code_is_itself() -> None:
    assert canonical("Klingon") == "klingon"
    for label in ("zh-CN", "Klingon", "English", "haw"):
        assert canonical(canonical(label)) == canonical(label)
