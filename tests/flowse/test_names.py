"""Laws of names from outside: none leads out of its folder, none is longer than a file system holds."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowse.names import NAME_BYTES, UnsafeName, bounded, is_inside, join_inside, readable, tail

HOSTILE = (
    "",
    ".",
    "..",
    "...",
    "/",
    "/etc/passwd",
    "//server/share/x.wav",
    "../x.wav",
    "a/../../x.wav",
    "a/..",
    "a/../b.wav",
    "./x.wav",
    "a/./x.wav",
    "a//x.wav",
    "a/",
    "a/. /x.wav",
    ".. /x.wav",
    "..\\x.wav",
    "a\\..\\..\\x.wav",
    "\\\\server\\share\\x.wav",
    "C:\\x.wav",
    "C:/x.wav",
    "c:x.wav",
    "x\0.wav",
    "a\nb.wav",
    "\x1b[2Jx.wav",
    "x\x7f.wav",
    "x" * 256,
    "你" * 86,
    "a/" * 2048 + "x.wav",
    "link/x.wav",
    "link",
    "inner/up/x.wav",
    "deep/file.wav",
)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Return a folder in which links lead out of it."""
    folder, outside = tmp_path / "out", tmp_path / "outside"
    for made in (folder / "inner", folder / "deep", outside):
        made.mkdir(parents=True)
    (folder / "link").symlink_to(outside)
    (folder / "inner" / "up").symlink_to("../..")
    (outside / "file.wav").touch()
    (folder / "deep" / "file.wav").symlink_to(outside / "file.wav")
    return folder


@pytest.mark.parametrize("name", HOSTILE)
def test_no_hostile_name_becomes_a_path(name: str, out: Path) -> None:
    with pytest.raises(UnsafeName, match="must not be written or read") as refused:
        join_inside(out, name)
    assert str(refused.value).isprintable()


@pytest.mark.parametrize("name", ["c/a.wav", "c/Mr. Smith Jr./1.wav", "c/..a/b...wav", "你/好.flac", "c/a b;c|d'.wav"])
def test_a_plain_name_is_kept(name: str, out: Path) -> None:
    assert join_inside(out, name) == out / name


def test_a_folder_that_is_a_link_itself_may_be_written_to(out: Path) -> None:
    link = out.parent / "link-to-out"
    link.symlink_to(out)
    assert join_inside(link, "c/x.wav") == link / "c" / "x.wav"
    assert is_inside(link / "inner", out)


@given(st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=400))
def test_a_bounded_name_fits_and_a_short_one_is_unchanged(name: str) -> None:
    short = bounded(name)
    assert len(os.fsencode(short)) <= NAME_BYTES
    assert (short == name) == (len(os.fsencode(name)) <= NAME_BYTES)
    assert len(os.fsencode(tail(name, 100))) <= 100
    assert name.endswith(tail(name, 100))


def test_long_names_that_begin_alike_stay_different_and_keep_their_suffix() -> None:
    names = ["你" * 100 + f"{number}.wav" for number in range(20)]
    assert len({bounded(name) for name in names}) == len(names)
    assert all(bounded(name).endswith(".wav") for name in names)


def test_any_name_can_be_printed() -> None:
    assert readable(os.fsdecode(b"\xc4\xe3.wav")) == r"\xc4\xe3.wav"
    assert readable("a\x1b[31m\n\u202eb 你好") == r"a\x1b[31m\n\u202eb 你好"
