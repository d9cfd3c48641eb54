"""Normalise transcripts, so that spelling alone makes no difference: Unicode forms, case, punctuation, script."""

from __future__ import annotations

import re
import unicodedata

from flowse.chinese import simplify

HANZI = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]")
"""A Chinese character."""


def tidy(text: str, language: str, *, simplified: bool = True) -> str:
    """Compose characters (NFC) and join white space to single spaces; nothing that is read changes.

    Args:
        text: A transcript.
        language: ISO 639-1 code.
        simplified: Whether Chinese ("zh") is written in simplified characters.
    """
    composed = " ".join(unicodedata.normalize("NFC", text).split())
    return simplify(composed) if language == "zh" and simplified else composed


def plain(text: str) -> str:
    """Fold compatibility forms (NFKC) and case; punctuation, symbols and white space become single spaces."""
    folded = unicodedata.normalize("NFKC", text).lower()
    return " ".join("".join(" " if unicodedata.category(c)[0] in "PSZC" else c for c in folded).split())
