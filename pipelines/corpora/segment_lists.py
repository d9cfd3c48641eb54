"""Reads the long JSON list of segments of GigaSpeech and WenetSpeech, one recording at a time."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from flowse.data.manifest import Utterance
from flowse.errors import UserError

_CHUNK = 2**20
_BETWEEN = re.compile(r"[\s,]*")
_BEGIN = re.compile(r'"audios"\s*:\s*\[')


def segment_list(folder: Path, name: str) -> Path:
    """Return the path of the list, packed or unpacked; if there is neither, that of the unpacked list."""
    packed = folder / f"{name}.gz"
    return packed if packed.is_file() and not (folder / name).is_file() else folder / name


def rows_by_recording(path: Path, rows_of: Callable[[dict[str, Any]], Iterable[Utterance]]) -> Iterator[Utterance]:
    """Yield the rows of every recording of a list.

    Args:
        path: The list, as JSON or as JSON packed by gzip.
        rows_of: Returns the rows of a recording from its JSON object.

    Raises:
        UserError: The list is missing or damaged, or an object lacks a field.
    """
    for audio in recordings(path):
        try:
            rows = list(rows_of(audio))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            name = audio.get("aid") if isinstance(audio, dict) else audio
            raise UserError(
                f"{path}: recording {name!r} is not as its corpus describes it: {error!r}; fetch the list again"
            ) from None
        yield from rows


def recordings(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the objects of the array "audios"; memory is bounded by the longest object.

    GigaSpeech.json and WenetSpeech.json have gigabytes; `json.load`, which lhotse's recipe uses, takes several times
    as much memory.

    Args:
        path: The list, as JSON or as JSON packed by gzip.

    Raises:
        UserError: The file is missing, cut off, or holds no such array.
    """
    try:
        with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
            yield from _objects(path, file)
    except FileNotFoundError:
        raise UserError(f"{path}: the corpus' list of segments is missing; fetch it, or mend the root") from None
    except (UnicodeDecodeError, EOFError, gzip.BadGzipFile) as error:
        raise UserError(f"{path}: is damaged: {error}; fetch it again") from None


def _objects(path: Path, file: IO[str]) -> Iterator[dict[str, Any]]:
    decoder = json.JSONDecoder()
    text = ""
    while not (begin := _BEGIN.search(text)):
        # The key may begin in one chunk and end in the next.
        text = text[-64:] + (chunk := file.read(_CHUNK))
        if not chunk:
            raise UserError(f'{path}: has no list "audios"; it is not the list of segments, or it is damaged')
    place, size, number = begin.end(), _CHUNK, 0
    while True:
        place = _BETWEEN.match(text, place).end()  # type: ignore[union-attr]  # the pattern matches the empty text, too
        if text.startswith("]", place):
            return
        try:
            found, place = decoder.raw_decode(text, place)
        except json.JSONDecodeError:
            text = text[place:] + (chunk := file.read(size))
            # The chunks double, so that a long object is not parsed again after each chunk of fixed size.
            place, size = 0, 2 * size
            if not chunk:
                raise UserError(
                    f"{path}: is cut or damaged behind recording {number} ({text[:40]!r} …); fetch it again"
                ) from None
            continue
        yield found
        size, number = _CHUNK, number + 1
