"""Cuts a sorted list into batches at places that the items decide, so that a change moves no boundary but its own.

A list that is cut every 500 items is cut anew from the first added item on. Here an item is the last of its batch if
the hash of its key is small enough, whatever stands before or after it (content-defined chunking, as rsync and backup
programs cut files). There is no least size: a boundary that hung on the distance to the one before would move when
that one does. Small batches cost nothing on average, as the number of batches is that of the expected size.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

Item = TypeVar("Item")

LONGEST = 4
"""No batch holds more than so many times the expected number of items."""
_HELD = 64 * LONGEST  # so many times the expected number are held at most: the odds of a longer stretch are e^-256
_RANGE = 1 << 64


def content_batches(items: Iterable[Item], key: Callable[[Item], str], expected: int) -> Iterator[list[Item]]:
    """Yield consecutive lists of about `expected` items.

    Adding or removing one item, or all items of one key, changes at most two batches: the one that holds it, and the
    one that a boundary joins to or cuts off from it. Only a stretch of more than `LONGEST * expected` items without a
    boundary (2 % of them) is cut inside, by the smallest hashes of its middle; a change may move cuts of its own
    stretch then.

    Args:
        items: In an order that is the same whatever else is in the list; items of one key follow each other.
        key: What decides where a boundary stands. Items of one key stay together, unless they are more than the
            longest batch.
        expected: Mean number of items of a batch.

    Raises:
        ValueError: `expected` is not at least 1.

    Example:
        >>> [len(batch) for batch in content_batches(["a", "b", "c", "d", "e", "f"], str, 2)]
        [1, 1, 1, 3]
    """
    if expected < 1:
        raise ValueError(f"batches of {expected} items; there must be at least 1")
    stretch: list[Item] = []
    begin = 0  # of the items of the last key
    coming = iter(items)
    item = next(coming, None)
    last = None if item is None else key(item)
    while item is not None:
        stretch.append(item)
        item = next(coming, None)
        following = None if item is None else key(item)
        if following != last:
            assert last is not None
            # Many items of one key raise the odds of a boundary after them: the mean is one of items, not of keys.
            if _hash(last) < (len(stretch) - begin) * (_RANGE // expected):
                yield from _cut(stretch, key, LONGEST * expected)
                stretch = []
            begin, last = len(stretch), following
        elif len(stretch) >= _HELD * expected:
            *whole, stretch = _cut(stretch, key, LONGEST * expected)
            yield from whole
            begin = 0
    if stretch:
        yield from _cut(stretch, key, LONGEST * expected)


def _cut(stretch: list[Item], key: Callable[[Item], str], longest: int) -> Iterator[list[Item]]:
    """Cut a stretch at the smallest hashes until no piece is longer than `longest`."""
    if len(stretch) <= longest:
        yield stretch
        return
    place = _place(stretch, key)
    yield from _cut(stretch[:place], key, longest)
    yield from _cut(stretch[place:], key, longest)


def _place(stretch: Sequence[Item], key: Callable[[Item], str]) -> int:
    """Return where a stretch is cut: after a key that ends in its middle half; else after any; else in the middle."""
    keys = [key(item) for item in stretch]
    ends = [place for place in range(1, len(keys)) if keys[place] != keys[place - 1]]
    middle = [place for place in ends if len(keys) <= 4 * place <= 3 * len(keys)]
    return min(middle or ends, key=lambda place: _hash(keys[place - 1]), default=len(keys) // 2)


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")
