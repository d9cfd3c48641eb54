"""Laws of matching rows with files: another spelling finds the file, and a doubtful one finds none."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest

from flowse.data.row_files import RowFiles


@pytest.fixture
def files(tmp_path: Path) -> RowFiles:
    names = ["a/x.wav", "a/Y.WAV", unicodedata.normalize("NFD", "café.wav"), "b/z.wav", "B/z.wav", " s.wav", "w\\v.wav"]
    for name in names:
        (tmp_path / "root" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "root" / name).touch()
    (tmp_path / "link").symlink_to(tmp_path / "root")
    return RowFiles(tmp_path / "root", names)


@pytest.mark.parametrize(
    ("named", "found"),
    [
        ("a/x.wav", "a/x.wav"),
        ("./a/x.wav", "a/x.wav"),
        ("a//x.wav", "a/x.wav"),
        ("b/../a/x.wav", "a/x.wav"),
        (" a/x.wav ", "a/x.wav"),
        (" s.wav", " s.wav"),
        ("a\\x.wav", "a/x.wav"),
        ("w\\v.wav", "w\\v.wav"),
        ("A/X.wav", "a/x.wav"),
        ("a/y.wav", "a/Y.WAV"),
        ("caf\u00e9.wav", "cafe\u0301.wav"),
        ("{root}/a/x.wav", "a/x.wav"),
        ("{link}/a/x.wav", "a/x.wav"),
        ("b/z.wav", "b/z.wav"),
        ("b/Z.wav", None),
        ("x.wav", None),
        ("a/gone.wav", None),
        ("/a/x.wav", None),
        ("../root/a/x.wav", "a/x.wav"),
        ("\0", None),
        ("x" * 300, None),
        ("", None),
    ],
)
def test_a_row_finds_the_only_file_that_it_can_mean(
    files: RowFiles, tmp_path: Path, named: str, found: str | None
) -> None:
    named = named.replace("{root}", str(tmp_path / "root")).replace("{link}", str(tmp_path / "link"))
    assert files.find_all([named]) == [found]


def test_a_file_that_another_row_means_is_not_given_to_a_similar_name(files: RowFiles) -> None:
    assert files.find_all(["a/X.wav", "a/x.wav", "./a/x.wav"]) == [None, "a/x.wav", "a/x.wav"]
    assert files.find_all(["a/X.wav", "A/x.wav"]) == [None, None]
    assert files.find_all(["a/X.wav", "./a/X.wav"]) == ["a/x.wav", "a/x.wav"]
