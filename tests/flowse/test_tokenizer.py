"""Laws of the tokenizer: ids are indices plus 1, decoding inverts encoding, and unknown symbols are listed."""

from __future__ import annotations

import string
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pypinyin import lazy_pinyin

from flowse.tokenizer import FILLER, Tokenizer, default_vocabulary

TOKENIZER = Tokenizer.default()


def symbols(text: str, language: str = "", tokenizer: Tokenizer = TOKENIZER) -> list[str]:
    return tokenizer.decode(tokenizer.encode(text, language).ids)


def test_default_vocabulary_never_changes() -> None:
    """Weights depend on ids, so the test pins the list: its length, some entries, no repetition, the space first."""
    vocabulary = default_vocabulary()
    assert len(vocabulary) == len(set(vocabulary)) == 2168
    assert vocabulary[0] == " "
    assert [vocabulary[i] for i in (1, 24, 49, 500, 1000, 2167)] == ["!", "c", "a2", "fang4", "long4", "zuo4"]


@given(st.text(alphabet=string.ascii_lowercase + string.digits + "'.,!?", min_size=1))
def test_decoding_inverts_encoding_of_plain_text(text: str) -> None:
    encoded = TOKENIZER.encode(text)
    assert "".join(TOKENIZER.decode(encoded.ids)) == text
    assert encoded.n_unknown == 0


@given(st.text())
def test_ids_of_any_text_are_inside_the_vocabulary(text: str) -> None:
    encoded = TOKENIZER.encode(text)
    assert all(FILLER < i <= len(TOKENIZER) for i in encoded.ids)
    assert encoded.n_unknown <= len(encoded)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("你好", "ni2 hao3"),
        ("不是", "bu2 shi4"),
        ("我的", "wo3 de"),
        ("重庆银行行长", "chong2 qing4 yin2 hang2 hang2 zhang3"),
        ("绿色", "lv4 se4"),
        ("漢語", "han4 yu3"),
        ("今天 天气", "jin1 tian1 tian1 qi4"),
    ],
)
def test_hanzi_are_read_as_spoken(text: str, expected: str) -> None:
    assert symbols(text, "zh") == expected.split()


def test_tone_sandhi_is_an_option() -> None:
    assert symbols("你好", "zh", Tokenizer(default_vocabulary(), tone_sandhi=False)) == ["ni3", "hao3"]


def test_written_pinyin_is_encoded_like_its_hanzi_in_chinese_only() -> None:
    assert symbols("Ni2 hao3 ma5", "zh") == ["ni2", " ", "hao3", " ", "ma"]
    assert symbols("ni2", "en") == ["n", "i", "2"]


def test_mixed_text_keeps_its_order() -> None:
    assert symbols("用Python写", "zh") == ["yong4", *"python", "xie3"]


def test_fullwidth_punctuation_is_encoded_like_plain_punctuation() -> None:
    assert TOKENIZER.encode("你好，“世界”！ＡＢＣ１２", "zh") == TOKENIZER.encode('你好,"世界"!abc12', "zh")


def test_every_reading_that_pypinyin_knows_is_in_the_default_vocabulary() -> None:
    text = "".join(chr(code) for code in range(0x4E00, 0xA000))
    unread = {character for character in text if lazy_pinyin(character) == [character]}
    assert len(unread) < 100
    assert set(Tokenizer(default_vocabulary(), tone_sandhi=False).encode(text, "zh").unknown) == unread


def test_unknown_symbols_are_listed() -> None:
    encoded = TOKENIZER.encode("a ☃ b か")
    assert encoded.unknown == ("☃", "か")
    assert [encoded.ids[i] for i in (2, 6)] == [1, 1]


def test_japanese_ideographs_are_not_read_as_mandarin() -> None:
    assert TOKENIZER.encode("日本", "ja").unknown == ("日", "本")


def test_text_in_capitals_becomes_lower_case_and_mixed_case_is_kept_if_the_vocabulary_has_both() -> None:
    cased = Tokenizer([" ", *string.ascii_letters])
    assert symbols("HELLO THERE", tokenizer=cased) == list("hello there")
    assert symbols("Hello There", tokenizer=cased) == list("Hello There")


def official(tmp_path: Path) -> Path:
    """Return a list in the official layout: 2545 lines, the space first, line separators among the symbols."""
    exotic = ["\u2028", "\x85", "ü", "，", *string.ascii_uppercase, "de5", "lü4"]
    listed = [*default_vocabulary(), *exotic]
    listed.remove("de")
    listed.remove("lv4")
    listed += [chr(0xAC00 + i) for i in range(2545 - len(listed))]
    path = tmp_path / "vocab.txt"
    path.write_text("".join(f"{symbol}\n" for symbol in listed), encoding="utf-8", newline="\n")
    return path


def test_ids_are_the_line_numbers_of_the_vocabulary_file(tmp_path: Path) -> None:
    path = official(tmp_path)
    tokenizer = Tokenizer.from_file(path)
    assert len(tokenizer) == 2545
    lines = path.read_text(encoding="utf-8").split("\n")
    assert tokenizer.encode("Hi，你").ids == tuple(lines.index(symbol) + 1 for symbol in ("H", "i", "，", "ni3"))
    assert tokenizer.encode("☃").ids == (1,)


def test_other_spellings_of_neutral_tone_and_umlaut_in_a_vocabulary_are_found(tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_file(official(tmp_path))
    assert symbols("绿的", "zh", tokenizer) == ["lü4", "de5"]


@pytest.mark.parametrize(
    ("content", "complaint"), [("a\nb\na\n", "'a' twice"), ("a\n\nb\n", "line 2: empty"), ("", "empty")]
)
def test_an_error_names_the_broken_vocabulary_file(tmp_path: Path, content: str, complaint: str) -> None:
    path = tmp_path / "broken.txt"
    path.write_text(content)
    with pytest.raises(ValueError, match=complaint) as raised:
        Tokenizer.from_file(path)
    assert "broken.txt" in str(raised.value)
