"""What lies outside of a workspace is looked at when it is asked for, and not before."""

from __future__ import annotations

from flowse.outside import Outside, look


def test_nothing_is_looked_at_until_it_is_asked_for() -> None:
    looks: list[str] = []

    def digest() -> str:
        looks.append("looked")
        return "f00d"

    outside = Outside("a folder", digest)
    assert looks == []
    assert look(outside) == "f00d"
    assert looks == ["looked"]
    assert not outside.is_cheap
