"""Laws of records in JSON: what is written is read back, and any other form is refused with the key and the reason."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from flowse.json_records import WrongShape, from_json, to_json


@dataclass(frozen=True)
class Point:
    x: float
    y: float

    def __post_init__(self) -> None:
        if self.x < 0:
            raise ValueError("x is negative")


class Plain:
    """A class with a JSON form of its own."""

    def __init__(self, name: str) -> None:
        self.name = name

    def to_json(self) -> str:
        return self.name

    @classmethod
    def from_json(cls, value: Any) -> Plain:
        if not isinstance(value, str):
            raise WrongShape("not a name")
        return cls(value)


@dataclass(frozen=True)
class Drawing:
    title: str
    pages: int
    final: bool
    points: tuple[Point, ...]
    words: list[str]
    named: Mapping[str, Point]
    note: str | None
    colour: Any
    paper: Literal["A4", "A5"]
    author: Plain
    centre: Point = field(metadata={"key": "middle"})
    scale: float = field(default=1.0, metadata={"optional": True})


CONTENT: dict[str, Any] = {
    "title": "图",
    "pages": 2,
    "final": False,
    "points": [{"x": 1, "y": 2.5}],
    "words": ["a", "b"],
    "named": {"a b": {"x": 0.0, "y": 0.0}},
    "note": None,
    "colour": [1, {"any": "thing"}],
    "paper": "A5",
    "author": "A",
    "middle": {"x": 3.0, "y": 4.0},
    "scale": 2.0,
}


def test_a_record_survives_json_to_the_letter() -> None:
    drawing = from_json(Drawing, CONTENT)
    assert drawing.points == (Point(1, 2.5),)
    assert drawing.centre == Point(3.0, 4.0)
    assert drawing.author.name == "A"
    assert json.dumps(to_json(drawing)) == json.dumps(CONTENT)


def test_a_key_that_was_added_later_may_be_absent() -> None:
    assert from_json(Drawing, {key: value for key, value in CONTENT.items() if key != "scale"}).scale == 1.0


@pytest.mark.parametrize("key", [key for key in CONTENT if key != "scale"])
def test_a_missing_key_is_named(key: str) -> None:
    with pytest.raises(WrongShape, match=f"^{key} is missing$"):
        from_json(Drawing, {name: value for name, value in CONTENT.items() if name != key})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"title": 1}, "title is 1, not a text"),
        ({"pages": 2.0}, "pages is 2.0, not a whole number"),
        ({"pages": True}, "pages is True, not a whole number"),
        ({"final": 0}, "final is 0, not true or false"),
        ({"points": {}}, "points is {}, not a list"),
        ({"points": [{"x": 1, "y": 2}, {"x": "1", "y": 2}]}, r"points\[1\].x is '1', not a number"),
        ({"named": {"a b": {"x": 0.0}}}, r"named\['a b'\].y is missing"),
        ({"words": ["a", None]}, r"words\[1\] is None, not a text"),
        ({"named": []}, r"named is \[\], not an object"),
        ({"note": 5}, "note is 5, not a text"),
        ({"author": 5}, "author: not a name"),
        ({"paper": "A0"}, "paper is 'A0', not one of 'A4', 'A5'"),
        ({"middle": {"x": 1.0, "y": 1.0, "z": 1.0}}, "middle.z is unknown, perhaps of a newer version"),
        ({"middle": {"x": -1.0, "y": 1.0}}, "middle: x is negative"),
        ({"more": 1}, "more is unknown, perhaps of a newer version"),
        ({"title": ["x" * 100]}, "title is .{40,60}…, not a text"),
    ],
)
def test_another_form_is_refused_with_the_key_and_the_reason(change: dict[str, Any], message: str) -> None:
    with pytest.raises(WrongShape, match=message):
        from_json(Drawing, CONTENT | change)


@pytest.mark.parametrize("content", [None, 3, "text", [CONTENT]])
def test_a_file_without_an_object_is_refused(content: object) -> None:
    with pytest.raises(WrongShape, match=r"the content is .*, not an object with keys"):
        from_json(Drawing, content)
