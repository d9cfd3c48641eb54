"""The tokenizer of transcripts: tokens are characters, and pinyin with tone numbers for Hanzi."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

FILLER = 0
"""The id that pads text to the length of the mel; no symbol has this id."""

# Every syllable that pypinyin gives to a character of Unicode's CJK blocks, by initial. The list is written out so that
# the default vocabulary does not depend on pypinyin's version, and exists where pypinyin is not installed.
_FINALS = {
    "": "a ai an ang ao e ei en eng er o ou m n ng hm hng",
    "b": "a ai an ang ao ei en eng i ian iang iao ie in ing o ong u",
    "p": "a ai an ang ao ei en eng i ian iao ie in ing o ou u",
    "m": "a ai an ang ao e ei en eng i ian iao ie in ing iu o ou u",
    "f": "a an ang ei en eng iao o ou u",
    "d": "a ai an ang ao e ei en eng i ia ian iao ie in ing iu ong ou u uan ui un uo",
    "t": "a ai an ang ao e ei eng i ian iao ie ing ong ou u uan ui un uo",
    "n": "a ai an ang ao e ei en eng i ia ian iang iao ie in ing iu ong ou u uan un uo v ve",
    "l": "a ai an ang ao e ei en eng i ia ian iang iao ie in ing iu o ong ou u uan un uo v ve",
    "g": "a ai an ang ao e ei en eng ong ou u ua uai uan uang ui un uo",
    "k": "a ai an ang ao e ei en eng ong ou u ua uai uan uang ui un uo",
    "h": "a ai an ang ao e ei en eng ong ou u ua uai uan uang ui un uo",
    "j": "i ia ian iang iao ie in ing iong iu u uan ue un",
    "q": "i ia ian iang iao ie in ing iong iu u uan ue un",
    "x": "i ia ian iang iao ie in ing iong iu u uan ue un",
    "zh": "a ai an ang ao e ei en eng i ong ou u ua uai uan uang ui un uo",
    "ch": "a ai an ang ao e en eng i ong ou u ua uai uan uang ui un uo",
    "sh": "a ai an ang ao e ei en eng i ou u ua uai uan uang ui un uo",
    "r": "an ang ao e en eng i ong ou u ua uan ui un uo",
    "z": "a ai an ang ao e ei en eng i ong ou u uan ui un uo",
    "c": "a ai an ang ao e ei en eng i ong ou u uan ui un uo",
    "s": "a ai an ang ao e en eng i ong ou u uan ui un uo",
    "y": "a an ang ao e i in ing o ong ou u uan ue un",
    "w": "a ai an ang ei en eng o ong u",
}
_CHARACTERS = " !\"'(),-.:;?0123456789abcdefghijklmnopqrstuvwxyz"

_HANZI = re.compile(r"[\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003134f]+")
_HANZI_OR_PINYIN = re.compile(rf"{_HANZI.pattern}|(?<![a-zA-Z0-9])[a-zA-Z]{{1,6}}[0-5](?![a-zA-Z0-9])")
_SPACE_BETWEEN_HANZI = re.compile(rf"(?<={_HANZI.pattern[:-1]})\s+(?={_HANZI.pattern[:-1]})")
# Signs that compatibility decomposition (NFKC) keeps although the vocabularies have a plain sign for them.
_PLAIN = str.maketrans(
    dict.fromkeys("“”„«»《》「」『』〈〉", '"')
    | dict.fromkeys("‘’`´", "'")
    | dict.fromkeys("—–‐‑−―", "-")
    | dict.fromkeys("·・", " ")
    | {"。": ".", "、": ",", "【": "(", "】": ")", "[": "(", "]": ")"}
)


@dataclass(frozen=True)
class Encoded:
    """The token ids of a transcript.

    Attributes:
        ids: An id for each symbol, in [1, vocabulary size]; 0 (`FILLER`) never occurs.
        unknown: The symbols that the vocabulary lacks, in order of appearance, so that a caller can report them; each
            is encoded as the vocabulary's first symbol, a space.
    """

    ids: tuple[int, ...]
    unknown: tuple[str, ...] = ()

    @property
    def n_unknown(self) -> int:
        """Number of symbols that the vocabulary lacks."""
        return len(self.unknown)

    def __len__(self) -> int:
        return len(self.ids)


class Tokenizer:
    """Encodes transcripts with a vocabulary, in training and in inference.

    A Hanzi becomes its pinyin with the tone as a digit (你 → `ni3`); the neutral tone has no digit (的 → `de`). Every
    other character is a symbol of its own. A symbol is looked up as it is; if the vocabulary lacks it, then in lower
    case, then as plain punctuation (， → `,`), then without its accent (é → `e`). Letter case is therefore kept if the
    vocabulary has both cases (the official vocabulary has; the default one is lower case). A text without any
    lower-case letter is converted to lower case first: LibriSpeech and GigaSpeech write everything in capitals, which
    says nothing about pronunciation.

    Args:
        vocabulary: Symbols without repetition; the id of a symbol is its index + 1. The first symbol, a space in every
            vocabulary in use, also stands for unknown symbols.
        tone_sandhi: Write the tones as spoken (你好 → `ni2 hao3`) instead of as in a dictionary (`ni3 hao3`).

    Raises:
        ValueError: The vocabulary is empty or names a symbol twice.

    Example:
        >>> Tokenizer.default().encode("Hello 你好").ids
    """

    def __init__(self, vocabulary: Sequence[str], *, tone_sandhi: bool = True) -> None:
        if not vocabulary:
            raise ValueError("the vocabulary is empty; a tokenizer needs at least one symbol")
        self.vocabulary = tuple(vocabulary)
        self.tone_sandhi = tone_sandhi
        self._ids = {symbol: index + 1 for index, symbol in enumerate(self.vocabulary)}
        if len(self._ids) < len(self.vocabulary):
            twice = next(symbol for i, symbol in enumerate(self.vocabulary) if self._ids[symbol] != i + 1)
            raise ValueError(f"the vocabulary names {twice!r} twice; every symbol needs one id")

    @classmethod
    def default(cls) -> Tokenizer:
        """Return the tokenizer of this project's own models, with `default_vocabulary`."""
        return cls(default_vocabulary())

    @classmethod
    def from_file(cls, path: str | Path, *, tone_sandhi: bool = True) -> Tokenizer:
        """Read a vocabulary file: UTF-8 with one symbol a line, like those of the official FlowSE and of F5-TTS.

        Raises:
            ValueError: The list has an empty line in the middle or a symbol twice; the message names the file.
        """
        # splitlines() would split at U+2028 and similar characters, which are symbols in the official list.
        lines = Path(path).read_text(encoding="utf-8").split("\n")
        if lines and lines[-1] == "":
            lines.pop()
        symbols = [line.removesuffix("\r") for line in lines]
        if "" in symbols:
            raise ValueError(f"{path}, line {symbols.index('') + 1}: empty; a vocabulary has one symbol a line")
        try:
            return cls(symbols, tone_sandhi=tone_sandhi)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error

    def __len__(self) -> int:
        """Return the number of symbols, which is also the largest id."""
        return len(self.vocabulary)

    def encode(self, text: str, language: str = "") -> Encoded:
        """Encode a transcript.

        Args:
            text: Text in any mixture of scripts; runs of white space become one space, and none between two Hanzi.
            language: ISO 639-1 code. With "zh", `ni3 hao3`, which some corpora write, is read as syllables; with "ja"
                and "ko", ideographs are not read as Mandarin; all other codes make no difference.
        """
        ids: list[int] = []
        unknown: list[str] = []
        for symbol, candidates in self._symbols(text, language):
            known = next((self._ids[candidate] for candidate in candidates if candidate in self._ids), None)
            if known is None:
                unknown.append(symbol)
                known = 1
            ids.append(known)
        return Encoded(tuple(ids), tuple(unknown))

    def decode(self, ids: Sequence[int]) -> list[str]:
        """Return the symbols of `ids` without fillers: the inverse of `encode` up to normalisation."""
        return [self.vocabulary[i - 1] for i in ids if i != FILLER]

    def _symbols(self, text: str, language: str) -> Iterator[tuple[str, tuple[str, ...]]]:
        """Yield each symbol of a text with the spellings under which it is looked up, best first."""
        text = _SPACE_BETWEEN_HANZI.sub("", " ".join(unicodedata.normalize("NFC", text).split()))
        if text.upper() == text:
            text = text.lower()
        pattern = _HANZI_OR_PINYIN if language == "zh" else _HANZI
        end = 0
        for run in pattern.finditer(text):
            yield from ((character, _spellings(character)) for character in text[end : run.start()])
            if run[0].isascii():
                yield run[0], _pinyin_spellings(run[0].lower())
            elif language in ("ja", "ko"):
                yield from ((character, (character,)) for character in run[0])
            else:
                readings = _readings(run[0], self.tone_sandhi)
                yield from ((h, _pinyin_spellings(r)) for h, r in zip(run[0], readings, strict=True))
            end = run.end()
        yield from ((character, _spellings(character)) for character in text[end:])


@lru_cache(maxsize=1)
def default_vocabulary() -> tuple[str, ...]:
    """Return the default vocabulary: characters, then every Mandarin syllable in the neutral tone and 1–4."""
    syllables = sorted(initial + final for initial, finals in _FINALS.items() for final in finals.split())
    toned = [syllable + tone for syllable in syllables for tone in ("", "1", "2", "3", "4")]
    # "a", "e", "m" … are letters as well as syllables in the neutral tone; both share a symbol.
    return tuple(dict.fromkeys([*_CHARACTERS, *toned]))


def _readings(hanzi: str, tone_sandhi: bool) -> list[str]:
    """Return the pinyin of each Hanzi in a run; a character without a reading is returned as it is."""
    # pypinyin is imported only for Chinese text: the library works without it for other languages.
    from pypinyin import Style, lazy_pinyin

    return list(lazy_pinyin(hanzi, style=Style.TONE3, tone_sandhi=tone_sandhi, errors=_characters))


def _characters(unread: str) -> Any:
    return list(unread)  # pypinyin takes a list for several readings, though its annotation says `str`


@lru_cache(maxsize=4096)
def _spellings(character: str) -> tuple[str, ...]:
    lower = character.lower()
    plain = unicodedata.normalize("NFKC", lower.translate(_PLAIN)).translate(_PLAIN)
    bare = "".join(c for c in unicodedata.normalize("NFKD", plain) if not unicodedata.combining(c))
    # A symbol stays a single symbol: "…" decomposes to "..." and is looked up as ".".
    short = (bare[0],) if len(set(bare)) == 1 else ()
    return tuple(dict.fromkeys((character, lower, plain, bare, *short)))


@lru_cache(maxsize=4096)
def _pinyin_spellings(reading: str) -> tuple[str, ...]:
    # Vocabularies write the neutral tone (de, de5, de0) and ü (lv4, lü4) in different ways.
    base = reading.rstrip("05")
    neutral = () if base[-1:] in "1234" else (base, f"{base}5", f"{base}0")
    umlaut = (reading.replace("v", "ü"),) if "v" in reading else ()
    bare = "".join(c for c in unicodedata.normalize("NFKD", reading) if not unicodedata.combining(c))
    return tuple(dict.fromkeys((reading, *neutral, *umlaut, bare)))
