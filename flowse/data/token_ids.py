"""Token ids of transcripts: made once, with the shard, and read from its index by whoever trains."""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache

import numpy as np

from flowse.data.row_table import RowTable
from flowse.data.shards import IndexRow
from flowse.tokenizer import Tokenizer


@lru_cache(maxsize=16)
def vocabulary_id(vocabulary: tuple[str, ...]) -> str:
    """Return eight hexadecimal digits that tell vocabularies apart; none for an empty one."""
    return hashlib.sha256("\n".join(vocabulary).encode()).hexdigest()[:8] if vocabulary else ""


def with_tokens(rows: Iterable[IndexRow]) -> list[IndexRow]:
    """Add the token ids of the default vocabulary to index rows."""
    tokenizer = Tokenizer.default()
    name = vocabulary_id(tokenizer.vocabulary)
    found = []
    for row in rows:
        encoded = tokenizer.encode(row.text, row.language)
        facts = {"tokens": encoded.ids, "unknown_symbols": encoded.n_unknown, "vocabulary": name}
        found.append(dataclasses.replace(row, **facts))  # type: ignore[arg-type]
    return found


def token_reader(vocabulary: tuple[str, ...]) -> Callable[[IndexRow], Sequence[int]]:
    """Return a function that gives a row's token ids: those of the index where they are of this vocabulary.

    A dataset of before has none, and a model may have another vocabulary: then the text is encoded. Without a
    vocabulary there are none.
    """
    if not vocabulary:
        return lambda row: ()
    tokenizer, name = Tokenizer(vocabulary), vocabulary_id(vocabulary)

    def tokens(row: IndexRow) -> Sequence[int]:
        if row.vocabulary == name:
            return row.tokens
        return tokenizer.encode(row.text, row.language).ids if row.text else ()

    return tokens


def count_unknown_symbols(vocabulary: tuple[str, ...], rows: RowTable) -> int:
    """Count the symbols of the rows' texts that a vocabulary lacks; none without a vocabulary.

    The index knows it of its own vocabulary; only the texts of other rows are looked at.
    """
    if not vocabulary:
        return 0
    known = rows.are("vocabulary", vocabulary_id(vocabulary))
    total = int(rows.column("unknown_symbols")[known].sum())
    if known.all():
        return total
    counter = _UnknownSymbols(Tokenizer(vocabulary))
    return total + sum(
        counter.count(texts, languages) for texts, languages in rows.text_batches(np.flatnonzero(~known))
    )


class _UnknownSymbols:
    """Counts symbols that a vocabulary lacks; only texts that hold a doubtful character are really encoded."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._doubtful: dict[tuple[str, str], bool] = {}

    def _is_doubtful(self, character: str, language: str) -> bool:
        known = self._doubtful.get((character, language))
        if known is None:
            # In Mandarin, letters before a digit may be a syllable's pinyin, which is looked up as a whole.
            pinyin = language == "zh" and character.isascii() and character.isdigit()
            known = pinyin or self._tokenizer.encode(character, language).n_unknown > 0
            self._doubtful[character, language] = known
        return known

    def count(self, texts: Sequence[str], languages: Sequence[str]) -> int:
        """Count them in some texts."""
        unknown = 0
        for language in sorted(set(languages)):
            mine = [text for text, spoken in zip(texts, languages, strict=True) if spoken == language]
            doubtful = [character for character in set("".join(mine)) if self._is_doubtful(character, language)]
            if doubtful:
                pattern = re.compile("[" + re.escape("".join(sorted(doubtful))) + "]")
                found = (text for text in mine if pattern.search(text))
                unknown += sum(self._tokenizer.encode(text, language).n_unknown for text in found)
        return unknown
