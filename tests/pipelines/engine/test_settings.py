"""Laws of settings: plain values become frozen dataclasses, and every mistake is named with its file and key."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

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


@dataclass(frozen=True, kw_only=True)
class Texts:
    root: str = ""
    flag: bool = False
    rate: float = 1.0
    whole: int = 1
    limit: float = field(default=1.0, metadata={"finite": False})
    anything: dict[str, Any] = field(default_factory=dict)


TEN_TO_THE_SEVENTH = "anything:\n  a: &a [1,1,1,1,1,1,1,1,1,1]\n" + "".join(
    f"  {name}: &{name} [{','.join(['*' + before] * 10)}]\n" for before, name in zip("abcdef", "bcdefg", strict=True)
)


def loaded(tmp_path: Path, text: str, *overrides: str) -> Texts:
    path = tmp_path / "e.yaml"
    path.write_bytes(text.encode())
    return load(Texts, path, overrides)


@pytest.mark.parametrize(
    ("typed", "text"),
    [
        ("/data/run #1", "/data/run #1"),
        ("a: b", "a: b"),
        ("2025-01-01", "2025-01-01"),
        ("0123", "0123"),
        ("no", "no"),
        ("*.wav", "*.wav"),
        ("'quoted #1'", "quoted #1"),
        ("", ""),
        ("null", ""),
        ("a=b", "a=b"),
    ],
)
def test_an_override_of_a_text_is_all_that_follows_the_equals_sign(tmp_path: Path, typed: str, text: str) -> None:
    assert loaded(tmp_path, "", f"root={typed}").root == text


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("no", "no"),
        ("on", "on"),
        ("1:30", "1:30"),
        ("2025-01-01", "2025-01-01"),
        ("010", 10),
        ("1e3", 1000.0),
        ("true", True),
    ],
)
def test_scalars_are_those_of_yaml_1_2(tmp_path: Path, written: str, value: object) -> None:
    assert loaded(tmp_path, f"anything: {{key: {written}}}").anything == {"key": value}


@pytest.mark.parametrize(("written", "value"), [("yes", True), ("off", False), ("TRUE", True)])
def test_a_switch_may_be_written_in_words(tmp_path: Path, written: str, value: bool) -> None:
    assert loaded(tmp_path, f"flag: {written}").flag is value


@pytest.mark.parametrize("written", [".nan", ".inf", "-.inf", "nan", "1e999"])
def test_a_number_is_finite_unless_its_field_says_otherwise(tmp_path: Path, written: str) -> None:
    with pytest.raises(UserError, match=r"rate is .*; a finite number is needed"):
        loaded(tmp_path, f"rate: {written}")
    assert not math.isfinite(loaded(tmp_path, f"limit: {written}").limit)


@pytest.mark.parametrize("written", ["9" * 30, "9" * 400, "9" * 5000, "0x" + "f" * 9000])
@pytest.mark.parametrize("key", ["rate", "whole"])
def test_a_number_that_no_machine_holds_is_one_line(tmp_path: Path, key: str, written: str) -> None:
    with pytest.raises(UserError) as caught:
        loaded(tmp_path, f"{key}: {written}")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rate: 1\nroot: a\nrate: 2\n", r"the key 'rate' stands in lines 1 and 3; keep one of them"),
        ("anything: {a: {b: 1, b: 2}}", r"the key 'b' stands in lines 1 and 1"),
        ("root: ${oc.env:HOME}", r"asks for a resolver; only the value of another key can be taken"),
        ("anything: {a: ['${oc.decode:x}']}", r"asks for a resolver"),
        ("anything: &a {b: *a}", r"values with its aliases written out"),
        (TEN_TO_THE_SEVENTH, r"more than 100,000 values with its aliases written out"),
        ("anything: " + "[" * 3000 + "]" * 3000, r"nested too deep|values"),
        ("root: 5", r"root is 5, a int; a str is needed: put it in quotes"),
        ("root: true", r"root is True, a bool; a str is needed: put it in quotes"),
        ("root: \x00", r"not YAML"),
    ],
)  # fmt: skip
def test_yaml_that_would_be_misread_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=rf"e\.yaml: (.|\n)*{message}"):
        loaded(tmp_path, text)


def test_a_file_that_is_not_utf8_is_named_and_a_byte_order_mark_is_none_of_the_keys(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes("root: Müller".encode("latin-1"))
    with pytest.raises(UserError, match=r"a\.yaml: byte 7 is not UTF-8; save the file as UTF-8"):
        load(Texts, tmp_path / "a.yaml")
    (tmp_path / "b.yaml").write_bytes("root: Müller".encode("utf-8-sig"))
    assert load(Texts, tmp_path / "b.yaml").root == "Müller"


def test_an_override_cannot_ask_for_a_resolver(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="asks for a resolver"):
        loaded(tmp_path, "", "root=${oc.env:HOME}")
    assert loaded(tmp_path, "anything: {a: x}", "root=${anything.a}").root == "x"
