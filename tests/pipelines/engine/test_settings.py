"""Laws of settings: plain values become frozen dataclasses, and every mistake is named with its file and key."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from flowse.errors import UserError
from pipelines.engine.settings import build, load


@dataclass(frozen=True, kw_only=True)
class Inner:
    width: int = 3
    mode: Literal["a", "b"] = "a"

    def __post_init__(self) -> None:
        if self.width < 1:
            raise ValueError(f"width is {self.width}; it must be positive")


@dataclass(frozen=True, kw_only=True)
class Outer:
    rate: float = 1.0
    limit: int | None = None
    names: tuple[str, ...] = ()
    span: tuple[float, float] = (0.0, 1.0)
    inner: Inner = field(default_factory=Inner)
    parts: tuple[Inner, ...] = ()


def test_plain_values_become_frozen_dataclasses() -> None:
    value = {"rate": 2, "limit": 5, "names": ["x"], "span": [1, 2], "inner": {"mode": "b"}, "parts": [{"width": 9}]}
    built = build(Outer, value, where="f.yaml")
    expected = Outer(rate=2.0, limit=5, names=("x",), span=(1.0, 2.0), inner=Inner(mode="b"), parts=(Inner(width=9),))
    assert built == expected
    assert isinstance(built.rate, float)
    assert build(Outer, {"rate": "1e-4"}, where="f.yaml").rate == 1e-4  # YAML reads 1e-4 as a string


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"rte": 1.0}, r"f\.yaml: unknown key 'rte'; did you mean 'rate'\?"),
        ({"inner": {"widht": 1}}, r"unknown key 'inner\.widht'; did you mean 'inner\.width'\?"),
        ({"parts": [{}, {"zzz": 1}]}, r"unknown key 'parts\[1\]\.zzz'; known: parts\[1\]\.width, parts\[1\]\.mode"),
        ({"rate": "fast"}, r"rate is 'fast', a str; a float is needed"),
        ({"limit": 2.5}, r"limit is 2\.5, a float; a int is needed"),
        ({"limit": True}, r"limit is True"),
        ({"names": "x"}, r"names is 'x'; a list is needed"),
        ({"span": [1]}, r"span has 1 values; 2 are needed"),
        ({"inner": 3}, r"inner is 3; keys and values are needed"),
        ({"inner": {"mode": "c"}}, r"inner\.mode is 'c'; allowed: a, b"),
        ({"inner": {"width": 0}}, r"inner: width is 0; it must be positive"),
    ],
)
def test_a_mistake_is_named_with_its_key_and_mend(value: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build(Outer, value, where="f.yaml")


def test_overrides_win_over_the_file_and_the_file_over_the_defaults(tmp_path: Path) -> None:
    path = tmp_path / "f.yaml"
    path.write_text("rate: 2\nlimit: 3\nspan: [0.0, '${rate}']\n")
    loaded = load(Outer, path, ["limit=null", "inner.width=5"])
    assert loaded == Outer(rate=2.0, span=(0.0, 2.0), inner=Inner(width=5))
