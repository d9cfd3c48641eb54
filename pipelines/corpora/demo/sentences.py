"""Random sentences with a known text, from a small grammar for each language."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from functools import cache
from importlib import resources

import numpy as np

LANGUAGES = ("ar", "de", "en", "es", "fr", "it", "ja", "ko", "nl", "pl", "pt", "ru", "zh")
"""Languages that have a grammar, by Whisper's codes (ISO 639-1)."""

_SYMBOL = re.compile(r"\{(\w+)\}")
_FULL_STOPS = {"zh": "。", "ja": "。"}


@cache
def grammar(language: str) -> Mapping[str, tuple[str, ...]]:
    """Return the grammar of `language`: the alternatives of each symbol.

    A file `grammars/<language>.txt` holds one rule a line, `symbol: alternative | alternative`; a line
    that starts with a space continues the one above, and `#` starts a comment. `{symbol}` within an
    alternative stands for any alternative of that symbol.

    Raises:
        ValueError: If there is no such language.
    """
    if language not in LANGUAGES:
        raise ValueError(f"no grammar for {language!r}; there is one for {', '.join(LANGUAGES)}")
    text = resources.files(__package__).joinpath("grammars", f"{language}.txt").read_text(encoding="utf-8")
    lines = [line for line in text.replace("\n ", " ").splitlines() if line and not line.startswith("#")]
    rules: dict[str, tuple[str, ...]] = {}
    for line in lines:
        symbol, _, right = line.partition(":")
        rules[symbol.strip()] = tuple(alternative.strip() for alternative in right.split("|"))
    return rules


def sentence(language: str, rng: np.random.Generator) -> str:
    """Make a sentence in the usual spelling of `language`, such as "The old clock is under the bridge."

    All random choices come from `rng`, so that equal generators give equal sentences.
    """
    rules = grammar(language)

    def expand(symbol: str) -> str:
        alternatives = rules[symbol]
        chosen = alternatives[int(rng.integers(len(alternatives)))]
        return _SYMBOL.sub(lambda match: expand(match.group(1)), chosen)

    words = expand("sentence")
    return words[0].upper() + words[1:] + _FULL_STOPS.get(language, ".")


def is_held_out(text: str, share: float = 0.1) -> bool:
    """Return whether `text` is among the `share` of all sentences that no model may train on.

    The text alone decides, so that no sentence is on both sides, however many are drawn.
    """
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64 < share
