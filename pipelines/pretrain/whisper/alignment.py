"""Where in the sound a token is said: its phonemes by the words around it, and their frames by CTC."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import numpy as np
import torch
from torch import Tensor
from torchaudio.functional import forced_align

BLANK = 0
"""CTC's symbol for nothing."""

LEAST_CONFIDENCE = 0.3
"""An alignment whose phonemes have a smaller (geometric) mean probability tells nothing."""

NOWHERE = (-1, -1)
"""Place of a token that stands for no sound."""


def phonemes_of_tokens(pieces: Sequence[bytes], phonemes: str) -> list[tuple[int, int]]:
    """Tell which phonemes each token of a text stands for: the first and the last of them.

    Words and groups of phonemes pair off one by one where there are equally many of both; within a word,
    and where a synthesiser ran words together, lengths are taken to be proportional.

    Args:
        pieces: Bytes of each token, in order; a space before a word belongs to its first token.
        phonemes: What is said, one character a phoneme, groups of them apart by spaces; not empty.
    """
    text = b"".join(pieces)
    words, groups = _spans(text.split(b" ")), _spans(phonemes.split(" "))
    if len(words) != len(groups):
        words, groups = [(len(text) - len(text.lstrip()), len(text))], [(0, len(phonemes))]
    written, said = np.ravel(words), np.ravel(groups)
    places = []
    for end, piece in zip(accumulate(len(piece) for piece in pieces), pieces, strict=True):
        begin = end - len(piece.lstrip(b" ")) if piece.strip() else end
        first, last = np.interp([begin, end], written, said)
        index = min(int(first), len(phonemes) - 1)
        places.append((index, max(index, min(int(np.ceil(last)), len(phonemes)) - 1)))
    return places


def _spans(parts: Sequence[bytes] | Sequence[str]) -> list[tuple[int, int]]:
    """Begin and end of each part that is not empty, where one separator stands between neighbours."""
    ends = [end + i for i, end in enumerate(accumulate(len(part) for part in parts))]
    return [(end - len(part), end) for part, end in zip(parts, ends, strict=True) if part]


def align(log_probs: Tensor, phonemes: Tensor) -> Tensor | None:
    """Find the frames of each phoneme on the likeliest CTC path.

    Args:
        log_probs: Log probabilities [T, symbols] of a window's sounding frames.
        phonemes: What is said in it [S].

    Returns:
        First frame of each phoneme, and the number of frames at the end [S + 1]; None if the phonemes do
        not fit into the frames, or CTC does not recognise them.
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
