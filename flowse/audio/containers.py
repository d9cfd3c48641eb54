"""Where the audio of a file lies when its header does not say it: sizes that are wrong or unknown, chained recordings.

libsndfile believes a header. A recorder that died, a pipe, a file above 4 GiB and `cat a.ogg b.ogg` leave headers that
are not to be believed. This module finds out which bytes are audio, and gives a decoder those bytes under a header that
is right (`Spliced`). Files whose header is right, nearly all, are left to the decoder as they are.
"""

from __future__ import annotations

import io
import os
import re
import struct
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

import soundfile as sf

from flowse.audio.mpeg import counted_head, frame_at, is_right, links_of

HEAD_BYTES = 256
"""Bytes at the start of a file from which most headers are read."""

_WRAP = 1 << 32
"""A size field of 32 bits starts again from 0 here."""
_SLACK_BYTES = 64
"""A size may be wrong by so many bytes: some recorders count a header, or forget the last block."""
_MOST_MP3_BYTES = 1 << 30
_BLOCK_BYTES = 1 << 22
_MAX_CHUNK_BYTES = 1 << 16
_TRAILERS = frozenset(
    b"LIST INFO bext iXML axml id3 ID3 JUNK junk FLLR PAD cue plst smpl inst fact PEAK DISP afsp _PMX minf elm1 regn "
    b"umid DGDA levl strc cart labl note ANNO NAME AUTH COMT MARK APPL MIDI".split()
)
"""Chunks that stand behind the samples, without the spaces that fill a name up."""
_W64_RIFF = bytes.fromhex("726966662e91cf11a5d628db04c10000")
_W64_TAIL = bytes.fromhex("f3acd3118cd100c04f8edb8a")
_OGG_START = re.compile(rb"OggS\x00[\x02\x03\x06\x07]")
_FLAC_START = re.compile(rb"fLaC[\x00\x80]\x00\x00\x22")


@dataclass(frozen=True)
class Stretch:
    """Consecutive bytes of a file that a decoder takes for a whole file.

    Attributes:
        header: Bytes that stand before those of the file.
        start: Offset of the first byte of the file.
        stop: Offset after the last one.
    """

    header: bytes
    start: int
    stop: int


@dataclass(frozen=True)
class Layout:
    """Where the audio of a file lies.

    Attributes:
        stretches: To be decoded one after the other; empty: the decoder gets the file as it is.
        declared: Bytes of samples that the header declares, if fewer are present; otherwise 0.
        present: Bytes of samples that are present, if `declared` is not 0.
    """

    stretches: tuple[Stretch, ...] = ()
    declared: int = 0
    present: int = 0


PLAIN = Layout()
"""The header is right."""


class Spliced(io.RawIOBase):
    """A stretch of a file as a file of its own, for a decoder that reads Python's file objects.

    Attributes:
        error: The first error of reading: decoders swallow it, and take it for the end of the file.
    """

    def __init__(self, file: BinaryIO, stretch: Stretch) -> None:
        super().__init__()
        self._file, self._stretch, self._at = file, stretch, 0
        self._size = len(stretch.header) + max(0, stretch.stop - stretch.start)
        self.error: OSError | None = None

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the position."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to a position, and return it."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def readinto(self, target: Any) -> int:
        """Read up to as many bytes as the target holds; return how many there were."""
        view = memoryview(target).cast("B")[: max(0, self._size - self._at)]
        header = self._stretch.header[self._at : self._at + len(view)]
        view[: len(header)] = header
        done = len(header)
        try:
            if done < len(view):
                self._file.seek(self._stretch.start + self._at + done - len(self._stretch.header))
                while done < len(view) and (part := self._file.readinto(view[done:])):  # type: ignore[attr-defined]
                    done += part
        except OSError as error:
            self.error = self.error or error
        self._at += done
        return done

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        super().close()


def layout_of(path: Path, head: bytes, size: int, *, whole: bool) -> Layout:
    """Find out where the audio of a file lies.

    Args:
        path: The file.
        head: Its first `HEAD_BYTES`.
        size: Its size, in bytes.
        whole: Whether chained recordings are looked for, which reads an Ogg or FLAC file once from end to end.

    Raises:
        OSError: The file cannot be read.
    """
    if head[:4] in _CHUNKED:
        with closing(_Head(path, head, size)) as opened:
            try:
                return _CHUNKED[head[:4]](opened)
            except struct.error:  # the header ends early: the decoder says so
                return PLAIN
    if head[:4] == b"OggS" and whole:
        return _chained(_ogg_links(path, *_version(path)), path)
    if head[:4] == b"fLaC" or (head[:3] == b"ID3" and _flac_start(path, head) is not None):
        return _flac(path, head, whole)
    if whole and size <= _MOST_MP3_BYTES and (head[:3] == b"ID3" or frame_at(head, 0) is not None):
        return Layout(_mp3_stretches(path, *_version(path)))
    return PLAIN


def _version(path: Path) -> tuple[int, int]:
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns


class _Head:
    """A file whose first bytes are known already; it is opened only if more are asked for."""

    def __init__(self, path: Path, head: bytes, size: int) -> None:
        self.path, self.head, self.size = path, head, size
        self._file: io.FileIO | None = None

    def at(self, offset: int, count: int) -> bytes:
        """Return `count` bytes from `offset` on; fewer if the file ends earlier."""
        if offset + count <= len(self.head):
            return self.head[offset : offset + count]
        if self._file is None:
            self._file = self.path.open("rb", buffering=0)
        return os.pread(self._file.fileno(), count, offset)

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()


def _is_name(name: bytes) -> bool:
    return len(name) == 4 and all(0x20 <= byte < 0x7F for byte in name) and any(byte > 0x40 for byte in name)


def _is_trailer(head: _Head, at: int) -> bool:
    """Whether a chunk or a tag that is no audio begins here."""
    name = head.at(at, 8)
    if name[:4].strip() in _TRAILERS or name[:3] in (b"TAG", b"ID3") or name == b"APETAGEX":
        return True
    if len(name) < 8 or not _is_name(name[:4]):
        return False
    return any(at + 8 + size <= head.size for size in struct.unpack("<I", name[4:]) + struct.unpack(">I", name[4:]))


def _is_unknown(declared: int) -> bool:
    """Whether a size is what programs write that do not know it yet (ffmpeg, SoX, arecord, lame)."""
    return declared == 0x7FFF_F000 or 0x7FFF_FF00 <= declared <= 0x8000_0000 or 0xFFFF_F000 <= declared < _WRAP


def _samples_end(head: _Head, start: int, declared: int, outer_end: int) -> tuple[int, bool]:
    """Return where the samples of a chunk end, and whether the chunk says so itself.

    Args:
        head: The file.
        start: Offset of the first sample.
        declared: Size of the chunk.
        outer_end: Where the whole file ends by its own header.
    """
    end = start + declared
    if not declared:
        # An empty recording has nothing or another chunk here; a recorder that died leaves samples.
        return (end, True) if head.size - end < 2 or _is_trailer(head, end) else (head.size, False)
    if _is_unknown(declared) and end != head.size and (end > head.size or not _is_trailer(head, end)):
        return head.size, False
    if end > head.size:
        return end, True
    wraps = (head.size - end) // _WRAP
    end += wraps * _WRAP
    rest = head.size - end
    if rest < 2 or (outer_end in (end, end + 1) and not wraps):
        return end, not wraps
    if any(_is_trailer(head, end + pad) for pad in (declared & 1, 0, 1)):
        return end, not wraps
    following = head.at(end, _MAX_CHUNK_BYTES)
    if not any(following):
        return end, not wraps
    for offset in range(1, min(_SLACK_BYTES, rest - 8)):
        if following[offset : offset + 4].strip() in _TRAILERS:
            return end + offset, False
    return head.size, False


@dataclass
class _Chunks:
    """What was found on the way to the samples.

    Attributes:
        found: Content of the chunks before the samples that describe them, by name.
        start: Offset of the first sample; 0 if there is none.
        declared: Size of the chunk of samples.
        regular: Whether every chunk began where the one before it ended.
    """

    found: dict[bytes, bytes]
    start: int = 0
    declared: int = 0
    regular: bool = True


def _walk(head: _Head, at: int, order: str, data: bytes, wanted: tuple[bytes, ...]) -> _Chunks:
    """Go from chunk to chunk up to the samples; where a chunk is damaged, look for the next one that is known."""
    chunks = _Chunks({})
    for _ in range(10_000):
        field = head.at(at, 8)
        if len(field) < 8:
            return chunks
        name, size = field[:4], struct.unpack(f"{order}I", field[4:])[0]
        if name == data:
            chunks.start, chunks.declared = at + 8, size
            return chunks
        end = at + 8 + size
        if not _is_name(name) or end > head.size:
            ahead = head.at(at + 4, 1 << 20)
            found = min((place for place in (ahead.find(key) for key in (*wanted, data)) if place >= 0), default=-1)
            if found < 0:
                return chunks
            chunks.regular = False
            at += 4 + found
            continue
        if name in wanted:
            chunks.found.setdefault(name, head.at(at + 8, min(size, _MAX_CHUNK_BYTES)))
        if size & 1:
            if _is_name(head.at(end + 1, 4)) or not _is_name(head.at(end, 4)):
                end += 1
            else:
                chunks.regular = False
        at = end
    return chunks


def _riff(head: _Head) -> Layout:
    """Find the samples of a WAV file: RIFF, RIFX, RF64 or BW64."""
    kind, order = head.head[:4], ">" if head.head[:4] == b"RIFX" else "<"
    if head.head[8:12] != b"WAVE":
        return PLAIN
    chunks = _walk(head, 12, order, b"data", (b"fmt ", b"ds64"))
    fmt = chunks.found.get(b"fmt ", b"")
    if not chunks.start or len(fmt) < 16:
        return PLAIN
    declared, outer = chunks.declared, struct.unpack(f"{order}I", head.head[4:8])[0]
    large = chunks.found.get(b"ds64", b"")
    if kind in (b"RF64", b"BW64") and len(large) >= 16 and declared == _WRAP - 1:
        outer, declared = struct.unpack("<QQ", large[:16])
        declared = declared if declared < 1 << 62 else 0
    end, regular = _samples_end(head, chunks.start, declared, outer + 8)
    block = struct.unpack(f"{order}H", fmt[12:14])[0]
    return _rewritten(head, chunks.start, end, block, order, fmt, regular and chunks.regular and kind != b"BW64")


def _rewritten(head: _Head, start: int, end: int, block: int, order: str, fmt: bytes, regular: bool) -> Layout:
    """Return the layout of samples that end at `end`, which may lie beyond the file."""
    present = head.size - start
    if end > head.size:
        missing = end - head.size
        # Some recorders count the header: their size is that of the file.
        if missing > _SLACK_BYTES and end - start not in (head.size, head.size - 8):
            short = Stretch(_wav_header(order, fmt, present), start, head.size)
            return Layout((short,), end - start, present)
        end, regular = head.size, False
    if regular:
        return PLAIN
    end -= (end - start) % max(block, 1)
    return Layout((Stretch(_wav_header(order, fmt, end - start), start, end),))


def _wav_header(order: str, fmt: bytes, samples_bytes: int) -> bytes:
    """Return a WAV header for so many bytes of samples; RF64 from 4 GiB on."""
    fmt = fmt + bytes(len(fmt) & 1)
    described = b"fmt " + struct.pack(f"{order}I", len(fmt)) + fmt
    if 4 + len(described) + 8 + samples_bytes < _WRAP - 1:
        outer = struct.pack(f"{order}I", 4 + len(described) + 8 + samples_bytes)
        kind = b"RIFX" if order == ">" else b"RIFF"
        return kind + outer + b"WAVE" + described + b"data" + struct.pack(f"{order}I", samples_bytes)
    sizes = struct.pack("<QQQI", 4 + 36 + len(described) + 8 + samples_bytes, samples_bytes, 0, 0)
    return b"RF64\xff\xff\xff\xffWAVEds64" + struct.pack("<I", len(sizes)) + sizes + described + b"data\xff\xff\xff\xff"


def _w64(head: _Head) -> Layout:
    """Find the samples of Sony's Wave64, whose sizes have 64 bits and count the header of a chunk."""
    if head.at(0, 16) != _W64_RIFF:
        return PLAIN
    at, fmt = 40, b""
    for _ in range(10_000):
        field = head.at(at, 24)
        if len(field) < 24:
            return PLAIN
        name, size = field[:4], struct.unpack("<Q", field[16:])[0]
        if field[4:16] != _W64_TAIL and name in (b"fmt ", b"data"):
            return PLAIN
        if name == b"data":
            break
        if size < 24 or at + size > head.size:
            return PLAIN
        if name == b"fmt ":
            fmt = head.at(at + 24, min(size - 24, _MAX_CHUNK_BYTES))
        at += -(-size // 8) * 8
    else:
        return PLAIN
    if len(fmt) < 16:
        return PLAIN
    start, block = at + 24, struct.unpack("<H", fmt[12:14])[0]
    if size <= 24 or size >= 1 << 62:
        end, regular = (head.size, False) if head.size > start else (start, True)
    else:
        end, regular = at + size, True
    return _rewritten(head, start, end, block, "<", fmt, regular)


def _aiff(head: _Head) -> Layout:
    """Find the samples of an AIFF file."""
    kind = head.head[8:12]
    if kind not in (b"AIFF", b"AIFC"):
        return PLAIN
    chunks = _walk(head, 12, ">", b"SSND", (b"COMM", b"FVER"))
    described = chunks.found.get(b"COMM", b"")
    if not chunks.start or len(described) < 18:
        return PLAIN
    start = chunks.start + 8 + struct.unpack(">I", head.at(chunks.start, 8)[:4] or bytes(4))[0]
    channels, frames, bits = struct.unpack(">HIH", described[:8])
    block = channels * -(-bits // 8)
    declared = chunks.declared - (start - chunks.start) if chunks.declared > 8 else 0
    if declared < 0 or not block or (kind == b"AIFC" and described[18:22] not in (b"NONE", b"sowt", b"fl32", b"FL32")):
        return PLAIN
    end, regular = _samples_end(head, start, declared, struct.unpack(">I", head.head[4:8])[0] + 8)
    if end > head.size + _SLACK_BYTES:
        return Layout((), end - start, head.size - start)
    end = min(end, head.size)
    count = (end - start) // block
    if regular and end == start + declared and frames == count:
        return PLAIN
    comm = described[:2] + struct.pack(">I", count) + described[6:] + bytes(len(described) & 1)
    body = kind + b"COMM" + struct.pack(">I", len(described)) + comm
    body += b"SSND" + struct.pack(">III", 8 + count * block, 0, 0)
    outer = b"FORM" + struct.pack(">I", min(len(body) + count * block, _WRAP - 1))
    return Layout((Stretch(outer + body, start, start + count * block),))


def _au(head: _Head) -> Layout:
    """Find the samples of a Sun AU file, whose size is often left unknown."""
    order = ">" if head.head[:4] == b".snd" else "<"
    if len(head.head) < 24:
        return PLAIN
    start, declared = struct.unpack(f"{order}II", head.head[4:12])
    present = head.size - start
    if present <= 0 or declared == present:
        return PLAIN
    if not _is_unknown(declared) and declared > present + _SLACK_BYTES:
        return Layout((), declared, present)
    if not _is_unknown(declared) and 0 < declared < present:
        return PLAIN  # what follows the samples is not known
    size = struct.pack(f"{order}I", present if present < _WRAP else _WRAP - 1)
    return Layout((Stretch(head.at(0, 8) + size + head.at(12, start - 12), start, head.size),))


def _nist(head: _Head) -> Layout:
    """Compare the samples of a NIST SPHERE file with the number in its header."""
    text = head.at(0, 1024)
    fields = dict(re.findall(rb"(\w+) -i (\d+)", text))
    try:
        start = int(text[8:16])
        sizes = [int(fields[name]) for name in (b"sample_count", b"channel_count", b"sample_n_bytes")]
    except (ValueError, KeyError):
        return PLAIN
    declared, present = sizes[0] * sizes[1] * sizes[2], head.size - start
    # The samples of a compressed file are fewer bytes; libsndfile refuses such files itself.
    is_cut = b"embedded" not in text and declared > present + _SLACK_BYTES
    return Layout((), declared, max(present, 0)) if is_cut else PLAIN


_CHUNKED = {
    b"NIST": _nist,
    b"RIFF": _riff,
    b"RIFX": _riff,
    b"RF64": _riff,
    b"BW64": _riff,
    b"riff": _w64,
    b"FORM": _aiff,
    b".snd": _au,
    b"dns.": _au,
}


def _search(path: Path, start: int, pattern: re.Pattern[bytes], longest: int) -> Iterator[int]:
    """Yield the offsets at which a pattern of at most `longest` bytes stands, from `start` on."""
    with path.open("rb", buffering=0) as file:
        file.seek(start)
        kept, at = b"", start
        while block := file.read(_BLOCK_BYTES):
            joined = kept + block
            for match in pattern.finditer(joined):
                yield at - len(kept) + match.start()
            at += len(block)
            # A match that begins in the kept bytes would have been found before if it were whole.
            kept = joined[-(longest - 1) :]


@lru_cache(maxsize=64)
def _ogg_links(path: Path, size: int, changed_ns: int) -> tuple[int, ...]:
    """Return the offsets of the recordings that are chained in an Ogg file (RFC 3533, section 4)."""
    links: list[int] = []
    page_end = -1
    with path.open("rb") as file:
        for offset in _search(path, 0, _OGG_START, 6):
            # Streams that are multiplexed begin with one page each, and these pages stand together.
            if offset != page_end:
                links.append(offset)
            file.seek(offset)
            header = file.read(27 + 255)
            count = header[26] if len(header) > 26 else 0
            page_end = offset + 27 + count + sum(header[27 : 27 + count])
    return tuple(links)


def _flac_start(path: Path, head: bytes) -> int | None:
    """Return the offset of a FLAC file's marker, which a tag may precede; None if there is none."""
    if head[:4] == b"fLaC":
        return 0
    if head[:3] != b"ID3" or len(head) < 10:
        return None
    start = 10 + sum((byte & 0x7F) << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0), strict=True))
    with path.open("rb", buffering=0) as file:
        file.seek(start)
        return start if file.read(4) == b"fLaC" else None


@lru_cache(maxsize=64)
def _flac_links(path: Path, size: int, changed_ns: int, start: int) -> tuple[int, ...]:
    """Return the offsets of the FLAC files that were joined to one."""
    return tuple(_search(path, start, _FLAC_START, 8))


def _flac(path: Path, head: bytes, whole: bool) -> Layout:
    """Find the audio of a FLAC file, whose length may be unknown (0) if it was written to a pipe."""
    start = _flac_start(path, head) or 0
    version = _version(path)
    fields = head[start + 21 : start + 26]
    if len(fields) < 5:
        with path.open("rb", buffering=0) as file:
            fields = os.pread(file.fileno(), 5, start + 21)
    unknown = _is_zero_length(fields)
    links = (_flac_links(path, *version, start) if whole or unknown else ()) or (start,)
    if len(links) == 1 and not unknown:
        return PLAIN
    stops = (*links[1:], version[0])
    stretches = []
    with path.open("rb", buffering=0) as file:
        for first, stop in zip(links, stops, strict=True):
            counted = not _is_zero_length(os.pread(file.fileno(), 5, first + 21))
            stretches.append(Stretch(b"", first, stop) if counted else _of_unknown_length(path, *version, first, stop))
    return Layout(tuple(stretches))


def _is_zero_length(field: bytes) -> bool:
    """Whether the 36 bits of STREAMINFO that count the samples are 0 (RFC 9639, section 8.2)."""
    return len(field) == 5 and not field[0] & 0x0F and not any(field[1:])


class _ForwardOnly(sf.SoundFile):  # type: ignore[misc]
    """soundfile seeks after each reading, which libFLAC cannot do at the end of a file of unknown length."""

    def seekable(self) -> bool:
        """Return False."""
        return False


@lru_cache(maxsize=64)
def _of_unknown_length(path: Path, size: int, changed_ns: int, start: int, stop: int) -> Stretch:
    """Count the samples of a FLAC file by decoding it, and write their number into its header.

    Raises:
        LibsndfileError: It cannot be decoded.
    """
    frames = 0
    with path.open("rb", buffering=0) as raw:
        header = os.pread(raw.fileno(), 26, start)
        with _ForwardOnly(Spliced(raw, Stretch(b"", start, stop))) as file:
            while count := len(file.read(1 << 18, dtype="int16")):
                frames += count
    counted = bytes([header[21] & 0xF0 | frames >> 32]) + struct.pack(">I", frames & 0xFFFF_FFFF)
    return Stretch(header[:21] + counted, start + 26, stop)


@lru_cache(maxsize=64)
def _mp3_stretches(path: Path, size: int, changed_ns: int) -> tuple[Stretch, ...]:
    """Return the recordings in an mp3 file, each under a right count of its frames; empty if the file is in order."""
    data = path.read_bytes()
    links = links_of(data)
    if not links or (len(links) == 1 and is_right(links[0])):
        return ()
    stretches = []
    for link in links:
        header, start = (b"", link.start) if is_right(link) else counted_head(data, link)
        stretches.append(Stretch(header, start, link.stop))
    return tuple(stretches)


def _chained(links: tuple[int, ...], path: Path) -> Layout:
    if len(links) < 2:
        return PLAIN
    stops = (*links[1:], path.stat().st_size)
    return Layout(tuple(Stretch(b"", *span) for span in zip(links, stops, strict=True)))
