"""Completes a manifest row by its audio file: what the header says, and whether the samples can be used."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

from flowse.audio.copied import refuse_copied
from flowse.audio.waveform import SEGMENT_SLACK_S, AudioInfo, check, read_mono
from flowse.data.content import content_of
from flowse.data.manifest import Utterance
from flowse.refusal import Refusal


def check_segment(row: Utterance) -> None:
    """Refuse a row whose times can be no stretch of a recording.

    Raises:
        Refusal: The start or the length is negative or not finite.
    """
    for name, value_s in (("offset_s", row.offset_s), ("duration_s", row.duration_s)):
        if not 0 <= value_s < math.inf:
            raise Refusal.failed(
                "bad_segment", f"{row.path}: {name} is {value_s:g}; correct it to seconds from 0 on, or leave it empty"
            )


def apply_header(row: Utterance, info: AudioInfo) -> Utterance:
    """Return the row with the length, sample rate and number of channels of its file.

    A row without a length lasts to the end of its file. Segment lists overrun their files by milliseconds: a segment
    that ends up to `SEGMENT_SLACK_S` after its file is shortened to the file.

    Args:
        row: The recording, or a segment of it.
        info: Header of its file.

    Raises:
        Refusal: The segment's times are negative or not finite, or the file ends before the segment begins, or well
            before the segment ends.
    """
    check_segment(row)
    rest_s = info.duration_s - row.offset_s
    if rest_s * info.sample_rate < 1 or row.duration_s > rest_s + SEGMENT_SLACK_S:
        raise Refusal.failed(
            "truncated",
            f"{row.path} ends at {info.duration_s:.2f} s, its segment at {row.offset_s + row.duration_s:.2f} s; "
            "fetch it again, or correct the segment's times",
        )
    return replace(
        row,
        duration_s=min(row.duration_s or rest_s, rest_s),
        sample_rate=info.sample_rate,
        channels=info.channels,
    )


def check_recording(row: Utterance, path: Path, *, min_s: float, max_s: float) -> Utterance:
    """Decode a recording once, and return its row with the content of its file; refuse it if nothing can be made of it.

    The file is hashed just before it is decoded, so that a disk gives its bytes once.

    Args:
        row: The recording, with its length and sample rate.
        path: Its file.
        min_s: Shortest length in seconds; impulse responses may be shorter.
        max_s: Longest length in seconds.

    Raises:
        Refusal: The recording is too short, too long, silent or not finite, or cannot be decoded; or it is speech of
            which half is missing, or the same over and over.
    """
    if row.kind != "rir" and row.duration_s < min_s:
        raise Refusal("too_short", f"{row.path}: {row.duration_s:.3f} s, under {min_s:g} s")
    if row.duration_s > max_s:
        raise Refusal("too_long", f"{row.path}: {row.duration_s:.0f} s, over {max_s:g} s")
    content = content_of(path)
    samples = read_mono(path, row.sample_rate, offset_s=row.offset_s, duration_s=row.duration_s)
    check(samples, row.path)
    if row.kind == "speech":
        refuse_copied(samples, row.sample_rate, row.path)
    return replace(row, content=content)
