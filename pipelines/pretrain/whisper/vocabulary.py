"""The compact vocabulary of the tiny Whisper: only the tokens that its training texts need."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Sequence
from functools import cache, cached_property

import numpy as np
import torch
from torch import Tensor
from whisper.tokenizer import Tokenizer, get_tokenizer

N_VOCAB = 51_865


@cache
def tokenizer_for(language: str) -> Tokenizer:
    """Return Whisper's multilingual tokenizer with `language` as its default."""
    with warnings.catch_warnings():
        # Whisper leaves the file of its vocabulary open, once in a process.
        warnings.simplefilter("ignore", ResourceWarning)
        return get_tokenizer(multilingual=True, num_languages=99, language=language or "en", task="transcribe")


def encode(text: str, language: str) -> list[int]:
    """Return Whisper's ids of the letters of `text`; the first letter of a word includes the space before the word.

    Whisper's tokenizer prefers whole words. A small model that was trained on thousands of word tokens, each a few
    times, guesses among probable words ("plane" for "plate"). There are only a few dozen letters, every sentence trains
    most of them, and Whisper's decoding joins them to the same text.
    """
    words = text.split(" ") if text else []
    space = "" if language in ("zh", "ja") else " "
    letters = [letter for word in words for letter in (space + word[0], *word[1:])]
    return [token for letter in letters for token in tokenizer_for("en").encode(letter)]


def spell(ids: Iterable[int]) -> list[bytes]:
    """Return the bytes of each of Whisper's text tokens."""
    pieces: list[bytes] = tokenizer_for("en").encoding.decode_tokens_bytes(list(ids))
    return pieces


class Vocabulary:
    """A subset of Whisper's tokens in rows 0 to `len(ids) - 1`, and another row that all other tokens share.

    Training with the full vocabulary would spend most of the time on tokens that never occur. These tokens share an
    embedding row, `other`. With `other_bias` added to its logit, the softmax equals that of the full vocabulary, so the
    trained model needs no mask.
    """

    def __init__(self, ids: Iterable[int]) -> None:
        first_special = tokenizer_for("en").eot
        self.ids: list[int] = sorted({*ids, *range(first_special, N_VOCAB)})

    @property
    def other(self) -> int:
        """Row of the tokens that are not in the subset."""
        return len(self.ids)

    @property
    def size(self) -> int:
        """Rows of the compact embedding."""
        return len(self.ids) + 1

    @property
    def other_bias(self) -> float:
        """Log of the number of tokens that share the row `other`."""
        return math.log(N_VOCAB - len(self.ids))

    @cached_property
    def _row_of(self) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        rows = np.full(N_VOCAB, self.other, dtype=np.int64)
        rows[self.ids] = np.arange(len(self.ids))
        return rows

    def rows(self, ids: Sequence[int]) -> list[int]:
        """Return the rows of Whisper's `ids`."""
        return [int(row) for row in self._row_of[list(ids)]]

    def expand(self, embedding: Tensor) -> Tensor:
        """Return the full embedding [N_VOCAB, D] from the compact embedding [size, D]."""
        return embedding[torch.from_numpy(self._row_of)]
