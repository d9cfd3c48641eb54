"""Read the audio of manifest rows for a model: shortest first, in bounded batches, one batch ahead of the model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np

from flowse.audio.waveform import check, read_mono
from flowse.data.content import require_unchanged
from flowse.data.manifest import Utterance
from flowse.fetching import ahead
from flowse.refusal import Refusal, refusing
from flowse.whisper.windows import SAMPLE_RATE, quietest_point

BATCH_S = 600.0
"""Audio in a batch, in seconds; 38 MB at 16 kHz. Two batches are in memory at once."""

PIECE_S = 60.0
"""Audio, in seconds, that one task decodes where others decode for a model (`pieces`)."""

_SEARCH_S = 8.0


@dataclass(frozen=True)
class Block:
    """A stretch of a row's audio: the whole row, unless the row is longer than a batch.

    Attributes:
        index: Index of the row in the list of rows.
        waveform: Mono samples at 16 kHz; empty if there is an error.
        error: Why the row could not be read; no further block of that row follows.
    """

    index: int
    waveform: np.ndarray
    error: Refusal | None = None


@runtime_checkable
class Reader(Protocol):
    """Reads the audio of rows for a model: `read_ahead`, or something that lets others decode."""

    def __call__(self, rows: Sequence[Utterance], roots: Mapping[str, Path]) -> Iterator[list[Block]]:
        """Yield the rows' audio in batches of at most `BATCH_S` seconds, as `read_ahead` does."""


def read_ahead(rows: Sequence[Utterance], roots: Mapping[str, Path], batch_s: float = BATCH_S) -> Iterator[list[Block]]:
    """Yield the rows' audio in batches of at most `batch_s` seconds, and read the next batch meanwhile.

    Rows come sorted by length, so that a batch holds similar lengths. A row longer than a batch comes in consecutive
    blocks that are cut at its quietest points, so memory does not grow with the length of a recording. An unreadable
    row gives a block with an error, never an exception.

    Args:
        rows: The rows to read.
        roots: Folder of every corpus.
        batch_s: Audio in a batch at most, in seconds.
    """
    batches = _batches(_blocks(rows, roots, batch_s), batch_s)
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="read-ahead") as reader:
        coming = reader.submit(next, batches, None)
        while (batch := coming.result()) is not None:
            coming = reader.submit(next, batches, None)
            yield batch


def pieces(rows: Sequence[Utterance], piece_s: float = PIECE_S) -> tuple[list[list[int]], list[int]]:
    """Share rows out to several who read them with `read_piece`.

    Args:
        rows: The rows to read.
        piece_s: Audio in a piece, in seconds, unless a single row is longer.

    Returns:
        Indices of the rows of each piece, sorted by length; and the rows that are longer than a batch, which
        `read_ahead` has to cut.
    """
    ordered = sorted(range(len(rows)), key=lambda index: (rows[index].duration_s, index))
    found: list[list[int]] = []
    held_s = 0.0
    for index in (index for index in ordered if rows[index].duration_s <= BATCH_S):
        if not found or held_s + rows[index].duration_s > piece_s:
            found.append([])
            held_s = 0.0
        found[-1].append(index)
        held_s += rows[index].duration_s
    return found, [index for index in ordered if rows[index].duration_s > BATCH_S]


def read_piece(rows: Sequence[Utterance], roots: Mapping[str, Path]) -> list[Block]:
    """Read rows that are no longer than a batch, one block each; an unreadable one has an error."""
    return sorted(_blocks(rows, roots, BATCH_S), key=lambda block: block.index)


def _batches(blocks: Iterator[Block], batch_s: float) -> Iterator[list[Block]]:
    batch: list[Block] = []
    samples = 0
    for block in blocks:
        if batch and samples + len(block.waveform) > batch_s * SAMPLE_RATE:
            yield batch
            batch, samples = [], 0
        batch.append(block)
        samples += len(block.waveform)
    if batch:
        yield batch


def _blocks(rows: Sequence[Utterance], roots: Mapping[str, Path], longest_s: float) -> Iterator[Block]:
    order = sorted(range(len(rows)), key=lambda i: (rows[i].duration_s, i))
    for index in ahead(order, lambda i: roots[rows[i].corpus] / rows[i].path):
        row = rows[index]
        path = roots[row.corpus] / row.path
        try:
            with refusing(row.path):
                require_unchanged(row, path)
                for waveform in _row_blocks(row, path, longest_s):
                    if not np.isfinite(waveform).all():
                        check(waveform, row.path)
                    yield Block(index, waveform)
        except Refusal as error:
            yield Block(index, np.zeros(0, np.float32), error)


def _row_blocks(row: Utterance, path: Path, longest_s: float) -> Iterator[np.ndarray]:
    """Read a row in stretches of at most `longest_s` seconds; each is cut at the quietest point near its end."""
    if row.duration_s <= longest_s:
        yield read_mono(path, SAMPLE_RATE, row.offset_s, row.duration_s or None)
        return
    begin_s, end_s = row.offset_s, row.offset_s + row.duration_s
    while end_s - begin_s > longest_s:
        waveform = read_mono(path, SAMPLE_RATE, begin_s, longest_s)
        search = min(round(_SEARCH_S * SAMPLE_RATE), len(waveform) // 2)
        cut = quietest_point(waveform, len(waveform) - search, len(waveform))
        yield waveform[:cut]
        begin_s += cut / SAMPLE_RATE
    if end_s > begin_s:
        yield read_mono(path, SAMPLE_RATE, begin_s, end_s - begin_s)
