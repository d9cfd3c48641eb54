"""Laws of the last listing: a command that looks does so once, the others show what it saw and say of when that is."""

from __future__ import annotations

from pathlib import Path

import pytest

from flowse.outside import Outside
from pipelines.engine.last_listing import NOT_LISTED, RECORD, LastListing


class Folder:
    """Something outside that changes, and counts how often it is looked at."""

    def __init__(self, place: str = "a folder", *, is_cheap: bool = False) -> None:
        self.holds, self.looks = "one", 0
        self.outside = Outside(place, self.digest, is_cheap)

    def digest(self) -> str:
        self.looks += 1
        return self.holds


def test_a_command_looks_once_and_the_next_ones_show_what_it_saw(tmp_path: Path) -> None:
    folder = Folder()
    run = LastListing(tmp_path, looks=True)
    assert [run.digest(folder.outside) for _ in range(3)] == ["one"] * 3
    assert folder.looks == 1
    assert run.note() == ""
    run.save()
    folder.holds = "two"
    status = LastListing(tmp_path, looks=False)
    assert status.note() == ""  # nothing was asked for
    assert status.digest(folder.outside) == "one"
    assert folder.looks == 1
    assert not status.unknown
    assert status.note().startswith("the corpora are shown as they were at 20")
    assert LastListing(tmp_path, looks=True).digest(folder.outside) == "two"
    assert LastListing(tmp_path, looks=False).digest(folder.outside) == "one"  # a preview saves nothing


def test_what_was_never_listed_is_said(tmp_path: Path) -> None:
    known, other = Folder(), Folder("another")
    status = LastListing(tmp_path, looks=False)
    assert status.digest(other.outside) == NOT_LISTED
    assert status.unknown
    assert "have not been listed in this workspace yet; `run` lists them" in status.note()
    run = LastListing(tmp_path, looks=True)
    run.digest(known.outside)
    run.save()
    status = LastListing(tmp_path, looks=False)
    assert (status.digest(known.outside), status.digest(other.outside)) == ("one", NOT_LISTED)
    assert "; some have not been listed yet" in status.note()
    run = LastListing(tmp_path, looks=True)
    run.digest(other.outside)
    run.save()
    status = LastListing(tmp_path, looks=False)
    assert (status.digest(known.outside), status.digest(other.outside)) == ("one", "one")  # what was seen before stays


def test_what_is_made_from_settings_is_asked_for_by_every_command(tmp_path: Path) -> None:
    made = Folder(is_cheap=True)
    assert LastListing(tmp_path, looks=False).digest(made.outside) == "one"
    run = LastListing(tmp_path, looks=True)
    assert run.digest(made.outside) == "one"
    run.save()
    assert list(tmp_path.iterdir()) == []


def test_bytes_are_read_again_only_where_sizes_or_times_are_others(tmp_path: Path) -> None:
    folder = Folder()
    facts = ["small, old"]
    outside = Outside(folder.outside.place, folder.digest, facts=lambda: facts[0])
    for expected_looks in (1, 1):
        run = LastListing(tmp_path, looks=True)
        assert run.digest(outside) == "one"
        run.save()
        assert folder.looks == expected_looks
    folder.holds, facts[0] = "two", "small, young"
    run = LastListing(tmp_path, looks=True)
    assert run.digest(outside) == "two"
    assert folder.looks == 2


@pytest.mark.parametrize("text", ["", '{"seen": {"a', "[]", '{"seen": {"a folder": {"digest": 3, "at": ""}}}'])
def test_a_damaged_record_says_nothing_and_is_written_anew(tmp_path: Path, text: str) -> None:
    (tmp_path / RECORD).write_text(text)
    assert LastListing(tmp_path, looks=False).digest(Folder().outside) == NOT_LISTED
    run = LastListing(tmp_path, looks=True)
    run.digest(Folder().outside)
    run.save()
    assert LastListing(tmp_path, looks=False).digest(Folder().outside) == "one"
