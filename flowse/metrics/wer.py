"""How well enhanced speech is understood: word errors (characters in Chinese) of a recogniser's transcript."""

from __future__ import annotations

import functools
import math
import re
import unicodedata
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from flowse.chinese import simplify

_HAN = re.compile(r"([㐀-䶿一-鿿豈-﫿])")


@dataclass(frozen=True)
class TokenErrors:
    """What separates a hypothesis from its reference, in tokens: words, and single characters where Hanzi are written.

    Attributes:
        substitutions: Tokens that were taken for others.
        deletions: Tokens of the reference that are missing.
        insertions: Tokens that the reference does not have.
        length: Tokens of the reference.
    """

    substitutions: int = 0
    deletions: int = 0
    insertions: int = 0
    length: int = 0

    def __add__(self, other: TokenErrors) -> TokenErrors:
        return TokenErrors(
            self.substitutions + other.substitutions,
            self.deletions + other.deletions,
            self.insertions + other.insertions,
            self.length + other.length,
        )

    @property
    def count(self) -> int:
        """All errors together."""
        return self.substitutions + self.deletions + self.insertions

    @property
    def rate(self) -> float:
        """Errors a token of the reference; NaN if the reference is empty."""
        return self.count / self.length if self.length else math.nan


@functools.cache
def _english() -> Callable[[str], str]:
    """Whisper's own normaliser of English: spelling, contractions, numbers, titles."""
    with warnings.catch_warnings():
        # It reads its spelling table without closing the file.
        warnings.simplefilter("ignore", ResourceWarning)
        from whisper.normalizers import EnglishTextNormalizer

        return EnglishTextNormalizer()  # type: ignore[no-any-return]


def _plain(text: str) -> str:
    """Lower case, compatibility forms folded, marks and symbols to spaces."""
    folded = unicodedata.normalize("NFKC", text).lower()
    return "".join(" " if unicodedata.category(symbol)[0] in "PSZC" else symbol for symbol in folded)


def tokens(text: str, language: str) -> tuple[str, ...]:
    """Split a transcript into the tokens that are counted.

    English is normalised by Whisper's own rules; anything else by compatibility folding, lower case and removal of
    punctuation. Hanzi are simplified and stand for themselves; Latin words between them stay words (as the mixed
    error rate of ASRU 2019 counts them).

    Args:
        text: A transcript, by a person or a recogniser.
        language: ISO 639-1 code.
    """
    if language == "en" and not _HAN.search(text):
        return tuple(_english()(text).split())
    return tuple(_HAN.sub(r" \1 ", simplify(_plain(text))).split())


def token_errors(reference: str, hypothesis: str, language: str) -> TokenErrors:
    """Count the fewest errors between reference and hypothesis: word errors, in Chinese character errors."""
    import jiwer

    wanted, heard = tokens(reference, language), tokens(hypothesis, language)
    if not wanted or not heard:
        return TokenErrors(deletions=len(wanted), insertions=len(heard), length=len(wanted))
    found = jiwer.process_words(" ".join(wanted), " ".join(heard))
    return TokenErrors(found.substitutions, found.deletions, found.insertions, len(wanted))


def corpus_rate(errors: Iterable[TokenErrors]) -> float:
    """Return the error rate of a corpus: all errors over all tokens, so that long utterances count as long ones."""
    return sum(errors, TokenErrors()).rate
