"""Laws of fingerprints: they follow all that can change an output, and nothing else."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from flowse.json_records import WrongShape, from_json, to_json
from flowse.outside import Outside
from pipelines.engine.fingerprint import KEY_DIGITS, Identity, Setting, UnitKeys, content_of, settings_of, unit_settings


@dataclass(frozen=True, kw_only=True)
class Inner:
    width: int = 3


@dataclass(frozen=True, kw_only=True)
class Corpus:
    root: str = field(default="", metadata={"fingerprint": False})
    licence: str = ""


@dataclass(frozen=True, kw_only=True)
class Config:
    snr_db: float = 5.0
    range_db: tuple[float, float] = (0.0, 1.0)
    batch: int = field(default=8, metadata={"fingerprint": False})
    model: str = field(default="", metadata={"model": True})
    inner: Inner = field(default_factory=Inner)
    corpora: tuple[Corpus, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)
    added_later: str = field(default="as before", metadata={"fingerprint": "unless default"})

    def outside(self) -> dict[str, Outside]:
        return {corpus.root: Outside(corpus.root, f"files of {corpus.root}".lower) for corpus in self.corpora}


def mark(config: Config, seed: int = 0, inputs: dict[str, str] | None = None, revision: int = 1) -> str:
    return Identity.of("simulate", revision, config, seed, inputs or {}).fingerprint


def test_a_fingerprint_changes_with_all_that_can_change_the_output() -> None:
    marks = [
        mark(Config()),
        mark(Config(snr_db=6.0)),
        mark(Config(range_db=(0.0, 2.0))),
        mark(Config(inner=Inner(width=4))),
        mark(Config(corpora=(Corpus(licence="x"),))),
        mark(Config(corpora=(Corpus(licence="x"), Corpus(licence="x")))),
        mark(Config(options={"a": 1})),
        mark(Config(added_later="otherwise")),
        mark(Config(), seed=1),
        mark(Config(), inputs={"ingest": "abc"}),
        mark(Config(), revision=2),
    ]
    assert len(set(marks)) == len(marks)


def test_a_fingerprint_ignores_what_cannot_change_the_output(tmp_path: Path) -> None:
    assert mark(Config(batch=8)) == mark(Config(batch=64))
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.pt").write_bytes(b"weights")
    (tmp_path / "b" / "README.md").write_text("a card")
    assert mark(Config(model=str(tmp_path / "a"))) == mark(Config(model=str(tmp_path / "b")))


def test_a_key_that_was_added_later_changes_no_fingerprint_at_its_default() -> None:
    assert "added_later" not in Identity.of("simulate", 1, Config(), 0, {}).settings


def test_a_models_content_enters_the_fingerprint(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(b"one")
    before = mark(Config(model=str(path)))
    path.write_bytes(b"other")
    assert mark(Config(model=str(path))) != before


def test_a_folders_content_enters_the_fingerprint_and_its_path_does_not() -> None:
    found = Identity.of("ingest", 1, Config(corpora=(Corpus(root="/a"),)), 0, {}).settings
    assert found["content of /a"] == "files of /a"
    seen = Identity.of(
        "ingest", 1, Config(corpora=(Corpus(root="/a"),)), 0, {}, lambda outside: f"last of {outside.place}"
    )
    assert seen.settings["content of /a"] == "last of /a"
    assert "corpora[0].root" not in found


def test_settings_give_every_value_once_under_its_dotted_key() -> None:
    config = Config(corpora=(Corpus(root="/a"),), options={"b": 2, "a": (1, 2)}, model="m")
    found = list(settings_of(config, "simulate."))
    assert [setting.key for setting in found] == [
        "simulate.snr_db",
        "simulate.range_db",
        "simulate.batch",
        "simulate.model",
        "simulate.inner.width",
        "simulate.corpora[0].root",
        "simulate.corpora[0].licence",
        "simulate.options.a",
        "simulate.options.b",
        "simulate.added_later",
    ]
    by_key = {setting.key.removeprefix("simulate."): setting for setting in found}
    assert by_key["model"] == Setting("simulate.model", "m", changes_output=True, is_model=True)
    assert by_key["corpora[0].root"] == Setting("simulate.corpora[0].root", "/a", changes_output=False)
    assert by_key["options.a"].value == [1, 2]


def test_what_lies_below_a_field_that_changes_nothing_changes_nothing() -> None:
    @dataclass(frozen=True)
    class Outer:
        inner: Config = field(default_factory=Config, metadata={"fingerprint": False})

    assert not any(setting.changes_output for setting in settings_of(Outer(Config(corpora=(Corpus(),)))))
    assert Identity.of("s", 1, Outer(), 0, {}).settings == {}


def test_identities_survive_json() -> None:
    identity = Identity.of("s", 1, Config(corpora=(Corpus(root="/a"),), options={"a": (1, (2, 3))}), 3, {"ingest": "d"})
    again = from_json(Identity, json.loads(json.dumps(to_json(identity))))
    assert again == identity
    assert again.fingerprint == identity.fingerprint


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "not an object"),
        ({"stage": "s", "revision": 1}, "seed is missing"),
        ({"stage": "s", "revision": "1", "seed": 0}, "revision is '1', not a whole number"),
        ({"stage": "s", "revision": 1, "seed": 0, "input ingest": None}, r"inputs\['ingest'\] is None, not a text"),
        (
            {"stage": "s", "revision": 1, "seed": 0, "platform": "x"},
            "platform is unknown",
        ),
    ],
)
def test_another_form_is_refused_and_named(content: object, message: str) -> None:
    with pytest.raises(WrongShape, match=message):
        from_json(Identity, content)


@dataclass(frozen=True, kw_only=True)
class Listing:
    """A configuration of which a part only decides which units there are."""

    corpora: tuple[Corpus, ...] = field(default=(), metadata={"unit": False})
    size: int = field(default=500, metadata={"unit": False})
    low: float = 0.3
    batch: int = field(default=8, metadata={"fingerprint": False})

    def content_digests(self) -> dict[str, str]:
        return {"corpus": "its files"}


def test_what_only_decides_which_units_there_are_enters_the_fingerprint_and_no_key_of_a_unit() -> None:
    settings = unit_settings(Listing(corpora=(Corpus(licence="x"),), size=2, batch=1))
    assert settings == unit_settings(Listing()) == {"low": 0.3}
    identities = [Identity.of("s", 1, listing, 0, {}) for listing in (Listing(), Listing(size=2))]
    assert identities[0].fingerprint != identities[1].fingerprint


def test_a_units_key_changes_with_all_that_can_change_its_files() -> None:
    base: dict[str, Any] = {"stage": "s", "revision": 1, "settings": {"low": 0.3}, "seed": 0}
    keys = [UnitKeys(**base)("content"), UnitKeys(**base)("other content")]
    for change in ({"stage": "t"}, {"revision": 2}, {"settings": {"low": 0.4}}, {"seed": 1}):
        keys.append(UnitKeys(**{**base, **change})("content"))
    assert len(set(keys)) == len(keys)
    assert {len(key) for key in keys} == {KEY_DIGITS}
    assert UnitKeys(**base)("content") == keys[0]


def test_content_is_that_of_values_not_of_objects() -> None:
    assert content_of(Inner(), Path("a/b"), [1, 2]) == content_of({"width": 3}, "a/b", (1, 2))
    assert content_of(Inner(), "a") != content_of(Inner(), "b")
    with pytest.raises(TypeError, match="set has no plain form"):
        content_of({1, 2})
