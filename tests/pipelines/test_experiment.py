"""Configuration: unknown keys, wrong types and contradictions are named; the shipped files load."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from flowse.errors import UserError
from pipelines.experiment import build, leaves, load_cluster, load_experiment, split_overrides

CONFIGS = Path(__file__).parents[2] / "configs"


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


@pytest.mark.parametrize("path", sorted((CONFIGS / "experiment").glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_experiments_load(path: Path) -> None:
    assert load_experiment(path).name


@pytest.mark.parametrize("path", sorted((CONFIGS / "cluster").glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_clusters_load(path: Path) -> None:
    assert load_cluster(path).retries >= 0


def test_an_override_reaches_its_key_and_no_other(tmp_path: Path) -> None:
    demo = CONFIGS / "experiment" / "demo.yaml"
    before, after = dict(leaves(load_experiment(demo))), dict(leaves(load_experiment(demo, ["train.max_steps=7"])))
    assert {key for key in before if before[key] != after[key]} == {"train.max_steps"}
    assert after["train.max_steps"] == 7


def test_overrides_reach_into_lists(tmp_path: Path) -> None:
    path = tmp_path / "e.yaml"
    path.write_text("ingest: {speech: [{name: a, root: x}]}")
    assert load_experiment(path, ["ingest.speech[0].root=/data"]).ingest.speech[0].root == "/data"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("ingest: [", "not YAML"),
        ("- a", "must hold keys and values"),
        ("trian: {}", "did you mean 'train'"),
        ("seed: ${nothing.there}", "nothing"),
        ("simulate: {sample_rate: 16000}", "simulate.sample_rate is 16000, but train.mel.sample_rate is 24000"),
    ],
)
def test_a_broken_experiment_is_one_clear_line(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text(content)
    with pytest.raises(UserError, match=message) as caught:
        load_experiment(path)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.yaml: cannot be read"):
        load_experiment(tmp_path / "none.yaml")


def test_overrides_are_parted_by_their_prefix() -> None:
    assert split_overrides(["seed=1", "cluster.retries=3"]) == (["seed=1"], ["retries=3"])
    with pytest.raises(UserError, match="key=value"):
        split_overrides(["seed"])
