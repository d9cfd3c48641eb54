"""Laws of the list of recordings below a folder: which files are in it, in which order, and that it ends."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from flowse.audio.recordings import find_files, find_recordings
from flowse.errors import UserError


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def found(root: Path) -> list[str]:
    return [path.relative_to(root).as_posix() for path in find_recordings(root)]


def test_suffixes_count_in_any_case_and_files_that_macos_adds_do_not(tmp_path: Path) -> None:
    touch(tmp_path, "a/x.wav", "a/Y.WAV", "b/z.Flac", "a/x.txt")
    touch(tmp_path, "a/._x.wav", ".trash/x.wav", "__MACOSX/a/x.wav", "b/__MACOSX/x.wav")
    assert found(tmp_path) == ["a/Y.WAV", "a/x.wav", "b/z.Flac"]


def test_files_come_before_subfolders_in_the_order_of_their_names(tmp_path: Path) -> None:
    touch(tmp_path, "b/y.wav", "b/c/x.wav", "z.wav", "a/x.wav")
    assert found(tmp_path) == ["z.wav", "a/x.wav", "b/y.wav", "b/c/x.wav"]
    assert [path.name for path in find_recordings(tmp_path, deep=False)] == ["z.wav"]


def test_a_folder_may_be_named_like_a_recording(tmp_path: Path) -> None:
    touch(tmp_path, "p232.wav/x.wav")
    assert found(tmp_path) == ["p232.wav/x.wav"]


def test_links_are_followed_and_those_that_lead_back_are_not(tmp_path: Path) -> None:
    touch(tmp_path, "a/x.wav", "b/y.wav")
    (tmp_path / "a" / "again").symlink_to(tmp_path)
    (tmp_path / "a" / "self").symlink_to(tmp_path / "a")
    (tmp_path / "a" / "other").symlink_to(tmp_path / "b")
    assert found(tmp_path) == ["a/x.wav", "b/y.wav"]


def test_two_links_that_lead_to_each_other_end(tmp_path: Path) -> None:
    touch(tmp_path, "a/x.wav", "b/y.wav")
    (tmp_path / "a" / "to_b").symlink_to(tmp_path / "b")
    (tmp_path / "b" / "to_a").symlink_to(tmp_path / "a")
    assert found(tmp_path) == ["a/x.wav", "b/y.wav"]


def test_siblings_that_all_link_to_each_other_are_visited_once_each(tmp_path: Path) -> None:
    names = [f"s{number:02d}" for number in range(12)]
    touch(tmp_path, *(f"{name}/{name}.wav" for name in names))
    for name in names:
        for other in names:
            (tmp_path / name / f"to_{other}").symlink_to(tmp_path / other)
    assert found(tmp_path) == [f"{name}/{name}.wav" for name in names]


def test_a_folder_elsewhere_is_visited_once_whatever_leads_to_it(tmp_path: Path) -> None:
    touch(tmp_path, "disk/x.wav", "root/a/y.wav", "root/.cache/z.wav")
    (tmp_path / "root" / "one").symlink_to(tmp_path / "disk")
    (tmp_path / "root" / "two").symlink_to(tmp_path / "disk")
    (tmp_path / "disk" / "back").symlink_to(tmp_path / "root")
    (tmp_path / "root" / "hidden").symlink_to(tmp_path / "root" / ".cache")
    assert found(tmp_path / "root") == ["a/y.wav", "hidden/z.wav", "one/x.wav"]


def test_a_name_that_is_not_utf8_is_found(tmp_path: Path) -> None:
    name = os.fsdecode(b"\xc4\xe3.wav")
    touch(tmp_path, name)
    assert found(tmp_path) == [name]


def test_a_folder_that_cannot_be_listed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "a/x.wav")

    def refuse(folder: Path) -> None:
        raise PermissionError(13, "Permission denied", str(folder))

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(UserError, match=r"cannot be listed \(Permission denied\)"):
        found(tmp_path)


def test_a_root_that_is_a_link_is_read_through_it(tmp_path: Path) -> None:
    touch(tmp_path, "real/x.wav")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert found(tmp_path / "link") == ["x.wav"]


def test_a_dead_link_counts_as_a_file(tmp_path: Path) -> None:
    (tmp_path / "gone.wav").symlink_to(tmp_path / "nothing.wav")
    (tmp_path / "self.wav").symlink_to(tmp_path / "self.wav")
    assert found(tmp_path) == ["gone.wav", "self.wav"]


def test_other_suffixes_can_be_asked_for_and_a_missing_folder_holds_nothing(tmp_path: Path) -> None:
    touch(tmp_path, "a/x.trans.TXT", "a/x.wav")
    assert [path.name for path in find_files(tmp_path, (".trans.txt",))] == ["x.trans.TXT"]
    assert found(tmp_path / "nowhere") == []
