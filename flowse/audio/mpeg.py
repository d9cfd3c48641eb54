"""Frames of mp3 files: a file without a count of its frames, or with a wrong one, and files that were joined to one.

libsndfile takes the length from the Xing header, which counts the frames of the file that it was written for, or
guesses it from the first frame. Frame headers: ISO 11172-3, section 2.4.1.3, and ISO 13818-3.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

_KBPS_1 = (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
_KBPS_2 = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
_RATES = {3: (44_100, 48_000, 32_000), 2: (22_050, 24_000, 16_000), 0: (11_025, 12_000, 8_000)}
_INFO_KBPS = 64


@dataclass(frozen=True)
class Frame:
    """A frame of layer III.

    Attributes:
        start: Offset of its header.
        size: Its length, in bytes.
        side_bytes: Length of its side information, after which a Xing header may stand.
        version: 3: MPEG-1, 2: MPEG-2, 0: MPEG-2.5.
    """

    start: int
    size: int
    side_bytes: int
    version: int


@dataclass
class Link:
    """A recording within a file: the frames between two Xing headers.

    Attributes:
        start: Offset of its first byte.
        stop: Offset after its last byte.
        frames: Number of frames with sound.
        declared: Number of frames that its Xing header declares; None without one.
        info: The frame that holds the Xing header, if there is one.
        first: The first frame of all.
    """

    start: int
    stop: int
    frames: int
    declared: int | None
    info: Frame | None
    first: Frame


def frame_at(data: bytes, start: int) -> Frame | None:
    """Return the frame of layer III that begins at an offset; None if none does."""
    head = data[start : start + 4]
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0 or head[1] & 0x06 != 0x02:
        return None
    version, rate_index, kbps_index = head[1] >> 3 & 3, head[2] >> 2 & 3, head[2] >> 4
    if version == 1 or rate_index == 3 or kbps_index in (0, 15):
        return None
    kbps = (_KBPS_1 if version == 3 else _KBPS_2)[kbps_index]
    size = (144 if version == 3 else 72) * kbps * 1000 // _RATES[version][rate_index] + (head[2] >> 1 & 1)
    mono = head[3] >> 6 == 3
    side_bytes = (17 if mono else 32) if version == 3 else (9 if mono else 17)
    return Frame(start, size, side_bytes, version)


def tag_bytes(data: bytes, start: int) -> int:
    """Return the length of an ID3v2 tag that begins at an offset; 0 if none does."""
    head = data[start : start + 10]
    if len(head) < 10 or head[:3] != b"ID3":
        return 0
    return 10 + sum((byte & 0x7F) << shift for byte, shift in zip(head[6:], (21, 14, 7, 0), strict=True))


def _frames(data: bytes) -> Iterator[Frame]:
    """Yield the frames; tags between them are left out, and after damage the next two frames in a row count."""
    at = tag_bytes(data, 0)
    while at < len(data):
        frame = frame_at(data, at)
        if frame is not None:
            if at + frame.size > len(data):
                return
            yield frame
            at += frame.size
        elif tag := tag_bytes(data, at):
            at += tag
        else:
            at = data.find(b"\xff", at + 1)
            while at >= 0 and not ((found := frame_at(data, at)) and frame_at(data, at + found.size)):
                at = data.find(b"\xff", at + 1)
            if at < 0:
                return


def links_of(data: bytes) -> list[Link]:
    """Return the recordings that a file holds, in order; none if it is no layer III that can be counted."""
    links: list[Link] = []
    for frame in _frames(data):
        tag = frame.start + 4 + frame.side_bytes
        is_info = data[tag : tag + 4] in (b"Xing", b"Info")
        if is_info or not links:
            if links:
                links[-1].stop = frame.start
            counted = is_info and data[tag + 7] & 1
            declared = int.from_bytes(data[tag + 8 : tag + 12], "big") if counted else None
            links.append(Link(frame.start, len(data), 0, declared, frame if is_info else None, frame))
        if not is_info:
            links[-1].frames += 1
    return [link for link in links if link.frames]


def is_right(link: Link) -> bool:
    """Whether a decoder finds out the length of a link itself, or that it was cut."""
    # Some encoders count the frame of the Xing header too.
    return link.declared is not None and link.declared >= link.frames - 1


def counted_head(data: bytes, link: Link) -> tuple[bytes, int]:
    """Return a frame with a Xing header that counts the frames of a link, and the offset of the frame after it."""
    count = link.frames.to_bytes(4, "big")
    if link.info is not None:
        info = link.info
        frame = bytearray(data[info.start : info.start + info.size])
        tag = 4 + info.side_bytes
        if frame[tag + 7] & 1:
            frame[tag + 8 : tag + 12] = count
            return bytes(frame), info.start + info.size
        first_sound = info.start + info.size
    else:
        first_sound = link.first.start
    head = bytearray(data[link.first.start : link.first.start + 4])
    head[1] |= 1  # no checksum
    rates = _KBPS_1 if link.first.version == 3 else _KBPS_2
    head[2] = rates.index(_INFO_KBPS) << 4 | head[2] & 0x0C
    frame_of_head = frame_at(bytes(head), 0)
    assert frame_of_head is not None, "it is made of a frame's header"
    body = bytes(link.first.side_bytes) + b"Xing\0\0\0\x01" + count
    return bytes(head) + body.ljust(frame_of_head.size - 4, b"\0"), first_sound
