"""Recordings that libsndfile decodes: a file, or the stretches of a file that hold its audio, one after the other."""

from __future__ import annotations

import os
import re
from pathlib import Path
from types import TracebackType

import numpy as np
import soundfile as sf
from jaxtyping import Float32

from flowse.audio.containers import Layout, Spliced
from flowse.refusal import Refusal

MP3_PREROLL_S = 1.0
"""How much of an mp3 is decoded before a segment, in seconds: a frame may use up to 511 bytes of earlier frames."""

_UNKNOWN_FRAMES = 1 << 40
"""libsndfile gives a number of this size if it does not know the length."""
_SYSTEM_ERROR = 2  # libsndfile's code if a call of the operating system failed
_SKIPPED_FRAMES = 1 << 18


class SndfileSource:
    """A recording that is open for reading; use it as a context manager.

    Attributes:
        frames: Number of samples in each channel.
        rate: Sample rate, in Hz.
        channels: Number of channels.
        subtype: libsndfile's name of the sample format, e.g. "PCM_24".
    """

    def __init__(self, path: Path, layout: Layout) -> None:
        """Open a file.

        Args:
            path: The file.
            layout: Where its audio lies.

        Raises:
            Refusal: The recordings that are chained in the file differ in sample rate or channels, or its length
                cannot be known.
            LibsndfileError: libsndfile does not know what it is.
        """
        self.path, self._layout = path, layout
        self._spliced: list[Spliced] = []
        self._files: list[sf.SoundFile] = []
        try:
            if layout.stretches:
                for stretch in layout.stretches:
                    self._spliced.append(Spliced(path.open("rb", buffering=0), stretch))
                    self._files.append(sf.SoundFile(self._spliced[-1]))
            else:
                self._files.append(sf.SoundFile(os.fsencode(path)))
            self._refuse_mixed()
        except BaseException:
            self.close()
            raise
        self.rate, self.channels = self._files[0].samplerate, self._files[0].channels
        self.subtype = str(self._files[0].subtype)
        self.frames = sum(file.frames for file in self._files)

    def __enter__(self) -> SndfileSource:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close all files."""
        for file in (*self._files, *self._spliced):
            file.close()

    def _refuse_mixed(self) -> None:
        kinds = list(dict.fromkeys((file.samplerate, file.channels) for file in self._files))
        if len(kinds) > 1:
            named = ", ".join(f"{rate} Hz with {channels} channel(s)" for rate, channels in kinds)
            raise Refusal.failed(
                "mixed_links", f"{self.path} is {len(self._files)} recordings chained to one: {named}; split them"
            )
        if any(file.frames >= _UNKNOWN_FRAMES for file in self._files):
            raise Refusal.failed("undecodable", f"{self.path} does not say how long it is; convert it to FLAC")

    def refuse_truncated(self) -> None:
        """Refuse a file that is shorter than its header says; libsndfile corrects such headers silently.

        Raises:
            Refusal: It is truncated.
        """
        declared, present = self._layout.declared, self._layout.present
        if not declared and self._files[0].format == "AIFF":
            for said, found in re.findall(r"(?:data|SSND) : (\d+) \(should be (\d+)\)", self._files[0].extra_info):
                declared, present = int(said), int(found)
        if present < declared:
            raise Refusal.failed(
                "truncated", f"{self.path} holds {present} of {declared} bytes of samples; fetch it again"
            )
        if self._files[0].format == "OGG":
            stops = [stretch.stop for stretch in self._layout.stretches] or [self.path.stat().st_size]
            if any(ogg_is_truncated(self.path, stop) for stop in stops):
                raise Refusal.failed("truncated", f"{self.path} lacks its last Ogg page; fetch it again")

    def read(self, start: int, count: int) -> Float32[np.ndarray, "C N"]:
        """Read up to `count` frames from `start` on; fewer if the recording ends earlier.

        Raises:
            Refusal: It cannot be decoded to the end.
            OSError: The storage fails.
        """
        parts = []
        for file in self._files:
            if count <= 0:
                break
            if start < file.frames:
                parts.append(self._read_from(file, start, min(count, file.frames - start)))
                count -= min(count, file.frames - start)
            start = max(0, start - file.frames)
        for spliced in self._spliced:
            if spliced.error is not None:
                raise spliced.error
        if len(parts) == 1:
            return np.ascontiguousarray(parts[0].T)
        if not parts:
            return np.zeros((self.channels, 0), np.float32)
        return np.ascontiguousarray(np.concatenate(parts).T)

    def _read_from(self, file: sf.SoundFile, start: int, count: int) -> Float32[np.ndarray, "N C"]:
        # An mp3 frame uses bits of earlier frames: the first samples of a decoder that begins in the middle are wrong.
        before = min(start, round(MP3_PREROLL_S * file.samplerate)) if file.format == "MP3" else 0
        try:
            if file.seekable():
                file.seek(start - before)
            else:  # GSM and G.72x can only be decoded from the start
                for left in range(start, 0, -_SKIPPED_FRAMES):
                    file.read(min(left, _SKIPPED_FRAMES), dtype="float32")
            frames: Float32[np.ndarray, "N C"] = file.read(before + count, dtype="float32", always_2d=True)[before:]
        except sf.LibsndfileError as error:
            raise read_error(self.path, error, "truncated") from error
        return frames


def read_error(path: Path, error: sf.LibsndfileError, reason: str) -> Refusal:
    """Return why libsndfile failed at a file.

    Args:
        path: The file.
        error: libsndfile's error.
        reason: "undecodable" if it could not be opened, "truncated" if it could not be read to the end.

    Raises:
        OSError: The file cannot be read at all, so it is not to blame.
    """
    if error.code == _SYSTEM_ERROR:
        with path.open("rb", buffering=0) as file:
            while file.read(1 << 20):
                pass
    # libsndfile refuses to open an Ogg Opus file without its end.
    if reason == "undecodable" and ogg_is_truncated(path, path.stat().st_size):
        return Refusal.failed("truncated", f"{path} lacks its last Ogg page; fetch it again")
    said = error.error_string.rstrip(".")
    if "not a regular file" in said:  # what mpg123 makes of bytes in which it finds no frame
        said = "no audio is found in it"
    if reason == "truncated":
        return Refusal.failed("truncated", f"{path} cannot be decoded to the end ({said}); fetch it again")
    return Refusal.failed(reason, f"{path}: {said}; convert it to FLAC, or fetch it again")


def ogg_is_truncated(path: Path, stop: int) -> bool:
    """Tell whether the last page before offset `stop` of an Ogg file does not end its stream (RFC 3533, section 6)."""
    with path.open("rb") as file:
        if file.read(4) != b"OggS":
            return False
        # A page has at most 65,307 bytes.
        file.seek(max(0, stop - 65_536))
        tail = file.read(min(stop, 65_536))
    page = tail.rfind(b"OggS")
    return page < 0 or page + 5 >= len(tail) or not tail[page + 5] & 0x04
