"""The two configurations: the shipped files load, overrides reach their keys, contradictions are named."""

from __future__ import annotations

from pathlib import Path

import pytest

from flowse.errors import UserError
from pipelines.engine.fingerprint import settings_of
from pipelines.experiment import load_cluster, load_experiment, split_overrides

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.mark.parametrize("path", sorted((CONFIGS / "experiment").glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_experiments_load(path: Path) -> None:
    assert load_experiment(path).name


@pytest.mark.parametrize("path", sorted((CONFIGS / "cluster").glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_clusters_load(path: Path) -> None:
    assert load_cluster(path).retries >= 0


def test_an_override_reaches_its_key_and_no_other(tmp_path: Path) -> None:
    demo = CONFIGS / "experiment" / "demo.yaml"
    before, after = (
        {setting.key: setting.value for setting in settings_of(load_experiment(demo, overrides))}
        for overrides in ((), ["train.max_steps=7"])
    )
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
        ("quality: {corpora: [{name: calls}]}", "quality.corpora names calls, but ingest.speech names no corpus"),
        ("quality: {min_dnsmos: 3.0, dnsmos: false}", "min_dnsmos is given, but dnsmos is false"),
        ("ingest: {forgotten: [anna]}", "'anna' begins no key"),
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


def test_a_training_listens_to_the_test_sets_that_evaluate_names() -> None:
    lines = [
        'evaluate.pairs=[{name: real, noisy: "/data/n", clean: "/data/c"}]',
        "train.listen.every=2",
        "train.listen.pairs=${evaluate.pairs}",
        "train.select=metric:dnsmos_overall",
    ]
    config = load_experiment(CONFIGS / "experiment" / "demo.yaml", lines)
    assert config.train.listen.pairs == config.evaluate.pairs
    assert [pairs.name for pairs in config.train.listen.pairs] == ["real"]


def test_an_unknown_metric_is_refused_when_the_settings_are_read() -> None:
    with pytest.raises(UserError, match=r"train.*metric:loudness.*known are ovrl \(dnsmos_overall\)"):
        load_experiment(CONFIGS / "experiment" / "demo.yaml", ["train.select=metric:loudness", "train.listen.every=1"])
