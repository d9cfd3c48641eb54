"""A corpus that holds every kind of bad file and row beside good ones, for the tests of ingest and of the doctor."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile as sf

from flowse.seeding import generator

RATE = 16_000
GOOD = ("good_a.wav", "good_b.flac", "good_c.ogg", "你" * 82 + ".wav")


def _noise(number: int, seconds: float = 1.0) -> np.ndarray:
    return 0.1 * generator(number).standard_normal(round(seconds * RATE))


def _cut(path: Path, share: float = 0.5) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])


def _cut_recording(number: int) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        sf.write(path, _noise(number, 3.0), RATE)
        _cut(path)

    return write


def _giant_header(path: Path) -> None:
    """Write a header of 65,535 channels, and a sparse file behind it."""
    head = b"RIFF" + struct.pack("<I", 2**31 - 9) + b"WAVEfmt "
    head += struct.pack("<IHHIIHH", 16, 1, 65535, 4_000_000_000, 4_000_000_000, 65535, 16)
    path.write_bytes(head + b"data" + struct.pack("<I", 2**31 - 45))
    os.truncate(path, 2**31)


def _sound(samples: np.ndarray, subtype: str = "FLOAT") -> Callable[[Path], None]:
    return lambda path: sf.write(path, samples, RATE, subtype=subtype)


def _bytes(content: bytes) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(content) and None


FILES: dict[str, tuple[Callable[[Path], None], str]] = {
    "pointer.wav": (_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"), "git_lfs_pointer"),
    "page.flac": (_bytes(b"<!DOCTYPE html><html><body>404</body></html>"), "html_instead_of_audio"),
    "empty.wav": (lambda path: path.touch(), "empty_file"),
    "text.wav": (_bytes(b"This is a text, not a recording.\n" * 200), "undecodable"),
    "text.mp3": (_bytes(b"This is a text, not a recording.\n" * 200), "undecodable"),
    "broken.m4a": (_bytes(b"\0\0\0\x20ftypM4A \0\0\0\0" + b"\x11" * 5000), "undecodable"),
    "no_samples.wav": (_sound(np.zeros(0), "PCM_16"), "empty_file"),
    "cut.wav": (_cut_recording(1), "truncated"),
    "cut.flac": (_cut_recording(2), "truncated|undecodable"),
    "cut.ogg": (_cut_recording(3), "truncated"),
    "not_finite.wav": (_sound(np.where(np.arange(RATE) == 7, np.nan, _noise(4))), "nan_samples"),
    "silent.wav": (_sound(np.zeros(RATE), "PCM_16"), "silent"),
    "constant.wav": (_sound(np.full(RATE, 0.25), "PCM_16"), "silent"),
    "dead_link.wav": (lambda path: path.symlink_to("nowhere.wav"), "not_found"),
    "loop.wav": (lambda path: path.symlink_to("loop.wav"), "not_found"),
    "giant.wav": (_giant_header, "truncated|undecodable|too_large|too_long"),
    "outside_link.wav": (lambda path: path.symlink_to(path.parent.parent / "outside.wav"), "outside_root"),
    "linked.wav": (lambda path: path.symlink_to("good_a.wav"), "same_file"),
    "twin.wav": (lambda path: os.link(path.parent / "good_a.wav", path), "same_file"),
}
"""Bad files: how each is written, and the reasons of its reject row that are right."""

ROWS: dict[str, tuple[str, str]] = {
    "absent.wav": (",", "not_found"),
    "negative.wav": ("-0.5,1", "bad_times"),
    "no_number.wav": ("0,nan", "bad_times"),
    "endless.wav": ("0,inf", "bad_times"),
    "beyond.wav": ("0.5,30", "truncated"),
    "behind.wav": ("9,1", "truncated"),
    "../far.wav": (",", "outside_root"),
    "x" * 300 + ".wav": (",", "bad_path|not_found"),
}
"""Bad rows of the table: their times, and the reasons of their reject rows; rows with times have a sound file."""

NOT_UTF8 = b"\xc4\xe3\xba\xc3.wav"


def plant(root: Path) -> dict[str, str]:
    """Write the corpus into an empty folder, with a table of times; return the reasons by path of all that is bad."""
    root.mkdir(parents=True)
    for number, name in enumerate(GOOD):
        sf.write(root / name, _noise(100 + number), RATE)
    sf.write(root.parent / "outside.wav", _noise(200), RATE)
    sf.write(root.parent / "far.wav", _noise(201), RATE)
    for name, (write, _) in FILES.items():
        write(root / name)
    for number, (name, (times, _)) in enumerate(ROWS.items()):
        if times != ",":
            sf.write(root / name, _noise(300 + number), RATE)
    sf.write(root / "other.wav", _noise(400), RATE)
    (root / "other.wav").rename(root / os.fsdecode(NOT_UTF8))
    lines = ["path,offset_s,duration_s", *(f"{name},{times}" for name, (times, _) in ROWS.items())]
    (root / "table.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    reasons = {name: reason for kinds in (FILES, ROWS) for name, (_, reason) in kinds.items()}
    return reasons | {r"\xc4\xe3\xba\xc3.wav": "not_utf8"}
