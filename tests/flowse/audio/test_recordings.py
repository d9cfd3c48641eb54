"""Laws of the list of recordings below a folder: which files are in it, in which order, and that it ends."""

from __future__ import annotations

from pathlib import Path

from flowse.audio.recordings import find_files, find_recordings


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
    assert found(tmp_path) == ["a/x.wav", "a/other/y.wav", "b/y.wav"]


def test_two_links_that_lead_to_each_other_end(tmp_path: Path) -> None:
    touch(tmp_path, "a/x.wav", "b/y.wav")
    (tmp_path / "a" / "to_b").symlink_to(tmp_path / "b")
    (tmp_path / "b" / "to_a").symlink_to(tmp_path / "a")
    assert found(tmp_path) == ["a/x.wav", "a/to_b/y.wav", "b/y.wav", "b/to_a/x.wav"]


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
