"""What lies outside of a workspace is looked at when it is asked for, and not before."""

from __future__ import annotations

from pathlib import Path

import pytest

from flowse.errors import UserError
from flowse.outside import Outside, digest_now, is_url, place_of


def test_a_path_may_begin_with_a_home_folder_that_exists(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ann")
    assert place_of("~/x", "root") == Path("/home/ann/x")
    assert place_of("x/~y", "root") == Path("x/~y")
    with pytest.raises(UserError, match="root of c: ~nobody-of-this-name/x begins with a home folder"):
        place_of("~nobody-of-this-name/x", "root of c")


def test_nothing_is_looked_at_until_it_is_asked_for() -> None:
    looks: list[str] = []

    def digest() -> str:
        looks.append("looked")
        return "f00d"

    outside = Outside("a folder", digest)
    assert looks == []
    assert digest_now(outside) == "f00d"
    assert looks == ["looked"]
    assert not outside.is_cheap


@pytest.mark.parametrize("url", ["s3://bucket/data", "gs://bucket", "https://host/x", "s3:/bucket/data"])
def test_a_url_is_no_folder(url: str) -> None:
    assert is_url(url)
    with pytest.raises(UserError, match=r"root of c: .* is a URL"):
        place_of(url, "root of c")


@pytest.mark.parametrize("path", ["/data", "data/s3", "a:b/c", "./s3:/x", ""])
def test_paths_are_no_urls(path: str) -> None:
    assert not is_url(path)
