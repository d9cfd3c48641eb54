"""Alignment of text tokens with sound: phonemes are found by word boundaries, and their frames by CTC."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import numpy as np
import torch
from torch import Tensor
from torchaudio.functional import forced_align

BLANK = 0
"""The blank symbol of CTC."""

LEAST_CONFIDENCE = 0.3
"""An alignment whose phonemes have a smaller mean probability (geometric mean) is not used."""

NO_PHONEME = (-1, -1)
"""Span of phonemes of a token that stands for no sound."""


def phonemes_of_tokens(pieces: Sequence[bytes], phonemes: str) -> list[tuple[int, int]]:
    """Return the indices of the first and last phoneme of each token of a text.

    Words are paired with groups of phonemes if there are equally many of both. Within a word, and if the synthesiser
    joined words, the phonemes are shared out in proportion to the lengths in characters.

    Args:
        pieces: Bytes of each token, in order; a space before a word belongs to the word's first token.
        phonemes: Phonemes, one character each, in groups separated by spaces; not empty.
    """
    text = b"".join(pieces)
    words, groups = _spans(text.split(b" ")), _spans(phonemes.split(" "))
    if len(words) != len(groups):
        words, groups = [(len(text) - len(text.lstrip()), len(text))], [(0, len(phonemes))]
    text_bounds, phoneme_bounds = np.ravel(words), np.ravel(groups)
    phoneme_spans = []
    for end, piece in zip(accumulate(len(piece) for piece in pieces), pieces, strict=True):
        begin = end - len(piece.lstrip(b" ")) if piece.strip() else end
        first, last = np.interp([begin, end], text_bounds, phoneme_bounds)
        index = min(int(first), len(phonemes) - 1)
        phoneme_spans.append((index, max(index, min(int(np.ceil(last)), len(phonemes)) - 1)))
    return phoneme_spans


def _spans(parts: Sequence[bytes] | Sequence[str]) -> list[tuple[int, int]]:
    """Return begin and end of each part that is not empty; neighbouring parts are separated by one character."""
    ends = [end + i for i, end in enumerate(accumulate(len(part) for part in parts))]
    return [(end - len(part), end) for part, end in zip(parts, ends, strict=True) if part]


def align(log_probs: Tensor, phonemes: Tensor) -> Tensor | None:
    """Find the frames of each phoneme on the most likely CTC path.

    Args:
        log_probs: Log probabilities [T, symbols] of the frames that contain sound.
        phonemes: Phonemes in these frames [S].

    Returns:
        The first frame of each phoneme, followed by the number of frames [S + 1]; None if the phonemes do not fit into
        the frames, or CTC does not recognise them.
    """
    repeated = int((phonemes[1:] == phonemes[:-1]).sum())
    if len(phonemes) == 0 or len(phonemes) + repeated > len(log_probs):
        return None
    paths, scores = forced_align(log_probs[None], phonemes[None], blank=BLANK)
    path, labelled = paths[0], paths[0] != BLANK
    if scores[0][labelled].mean() < np.log(LEAST_CONFIDENCE):
        return None
    before = torch.cat([path.new_full((1,), BLANK), path[:-1]])
    begins = torch.nonzero(labelled & (path != before))[:, 0]
    return torch.cat([begins, begins.new_tensor([len(path)])])
