"""Laws of files that are elsewhere: without a source every path stands for itself, with one it is asked."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from flowse import fetching
from flowse.data.content import file_facts
from flowse.data.shards import ShardError, read_index, read_mixture
from tests.small_shards import make_shards


class Elsewhere:
    """A source that has the files of another folder, and counts what it is asked for."""

    def __init__(self, here: Path, there: Path, *, parts: bool = False) -> None:
        self.here, self.there, self.parts = here, there, parts
        self.asked: list[str] = []

    def _of(self, path: Path) -> Path:
        return self.there / path.resolve().relative_to(self.here)

    def fetched(self, path: Path, sha256: str = "") -> Path:
        self.asked.append(path.name)
        return self._of(path)

    def is_far(self, path: Path) -> bool:
        return True

    def stretch(self, path: Path, begin: int, end: int, sha256: str, size: int) -> bytes | None:
        return self._of(path).read_bytes()[begin:end] if self.parts else None

    def facts(self, path: Path) -> str | None:
        return "as listed"

    def made(self, path: Path) -> None:
        self.asked.append(f"made {path.name}")

    def folder_at(self, url: str, key: str, *, again: bool) -> Path | None:
        return self.here / url.removeprefix("s3://bucket/") if url.startswith("s3://bucket/") else None

    def file_at(self, url: str) -> Path | None:
        return self.folder_at(url, "", again=False)


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    yield
    fetching.use_source(None)


def test_without_a_source_every_path_stands_for_itself(tmp_path: Path) -> None:
    path = tmp_path / "x"
    assert fetching.fetched(path) == path
    assert fetching.stretch(path, 0, 1, "", 1) is None
    assert fetching.facts(path) is None
    assert not fetching.is_far(path)
    fetching.made(path)
    assert fetching.folder_at("s3://bucket/x", "pairs") is None
    assert fetching.file_at("s3://bucket/x.csv") is None
    assert list(fetching.ahead([1, 2], lambda _: path)) == [1, 2]


@pytest.mark.parametrize("parts", [False, True])
def test_a_shard_that_is_elsewhere_is_read_as_one_that_is_here(tmp_path: Path, parts: bool) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    make_shards(there)
    rows = read_index(there / "index.parquet")
    expected = [read_mixture(there, row) for row in rows]
    fetching.use_source(Elsewhere(here, there, parts=parts))
    for row, mixture in zip(rows, expected, strict=True):
        found = read_mixture(here, row)
        assert (found.noisy == mixture.noisy).all()
        assert (found.clean == mixture.clean).all()
        assert found.meta == mixture.meta
    fetching.use_source(None)
    with pytest.raises(ShardError, match="no such file"):
        read_mixture(here, rows[0])


def test_what_a_listing_says_of_a_file_comes_from_the_source(tmp_path: Path) -> None:
    fetching.use_source(Elsewhere(tmp_path, tmp_path))
    assert file_facts(tmp_path / "x") == "as listed"
    assert fetching.is_far(tmp_path / "x")


def test_items_come_in_order_though_their_files_are_brought_ahead(tmp_path: Path) -> None:
    source = Elsewhere(tmp_path, tmp_path)
    fetching.use_source(source)
    items = fetching.ahead(range(100), lambda number: tmp_path / f"{number}")
    assert next(items) == 0
    assert len(source.asked) < 50, "not everything at once"
    assert list(items) == list(range(1, 100))
    assert sorted(source.asked, key=int) == [f"{number}" for number in range(100)]
