"""Word errors (in Chinese: character errors) of a transcript against its reference."""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass

from flowse.chinese import simplify
from flowse.normalisation import HANZI, plain


@dataclass(frozen=True)
class TokenErrors:
    """The fewest edits from a reference to a hypothesis, in tokens: words, and single characters for Hanzi.

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

    @property
    def count(self) -> int:
        """All errors together."""
        return self.substitutions + self.deletions + self.insertions

    @property
    def rate(self) -> float:
        """Errors per token of the reference; NaN if the reference is empty."""
        return self.count / self.length if self.length else math.nan


@functools.cache
def _english() -> Callable[[str], str]:
    """Load openai-whisper's normaliser of English: spelling, contractions, numbers, titles."""
    with warnings.catch_warnings():
        # The normaliser reads its spelling table without closing the file.
        warnings.simplefilter("ignore", ResourceWarning)
        from whisper.normalizers import EnglishTextNormalizer

        return EnglishTextNormalizer()  # type: ignore[no-any-return]


def tokens(text: str, language: str) -> tuple[str, ...]:
    """Split a transcript into the tokens that are counted.

    English is normalised by openai-whisper's rules, everything else by `flowse.normalisation.plain`. Hanzi are
    simplified and each is a token; Latin words between them stay words, as the mixed error rate of ASRU 2019 counts.

    Args:
        text: A transcript, by a person or a recogniser.
        language: ISO 639-1 code.
    """
    if language == "en" and not HANZI.search(text):
        return tuple(_english()(text).split())
    return tuple(HANZI.sub(r" \g<0> ", simplify(plain(text))).split())


def token_errors(reference: str, hypothesis: str, language: str) -> TokenErrors:
    """Count the fewest errors between reference and hypothesis, in tokens as `tokens` splits them.

    Args:
        reference: What is said.
        hypothesis: A recogniser's transcript.
        language: ISO 639-1 code.
    """
    import jiwer

    expected, found = tokens(reference, language), tokens(hypothesis, language)
    if not expected or not found:
        return TokenErrors(deletions=len(expected), insertions=len(found), length=len(expected))
    edits = jiwer.process_words(" ".join(expected), " ".join(found))
    return TokenErrors(edits.substitutions, edits.deletions, edits.insertions, len(expected))
