"""One key moves an experiment's data: every path below data/, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from flowse.errors import UserError
from pipelines.engine.data_folder import placed
from pipelines.engine.fingerprint import settings_of
from pipelines.experiment import ExperimentConfig, load_experiment

PAPER = Path(__file__).parents[3] / "configs" / "experiment" / "paper.yaml"


def roots(config: ExperimentConfig) -> list[str]:
    return [corpus.root for _, corpus in config.ingest.corpora()]


def test_the_paper_runs_from_another_folder_untouched(tmp_path: Path) -> None:
    paper = load_experiment(PAPER)
    moved = placed(paper, str(tmp_path))
    assert all(root.startswith("data/") for root in roots(paper))
    assert roots(moved) == [root.replace("data", str(tmp_path), 1) for root in roots(paper)]
    assert moved.evaluate.vocoder == f"{tmp_path}/models/vocos-mel-24khz"
    assert moved.filter_language.model == "large-v3"
    assert not any(str(setting.value).startswith("data/") for setting in settings_of(moved))
    assert placed(paper, "") is paper


def test_paths_elsewhere_and_embedded_names_stay(tmp_path: Path) -> None:
    overrides = ['ingest.speech[0]={"name": "s", "root": "database/x"}', "evaluate.model=flowse-small"]
    pairs = 'evaluate.pairs=[{"name": "p", "noisy": "./data/noisy", "clean": "/data/clean"}]'
    config = load_experiment(PAPER, [*overrides, pairs])
    moved = placed(config, str(tmp_path))
    assert moved.ingest.speech[0].root == "database/x"
    assert moved.evaluate.model == "flowse-small"
    assert moved.evaluate.pairs[0].noisy == f"{tmp_path}/noisy"
    assert moved.evaluate.pairs[0].clean == "/data/clean"


def test_a_store_may_hold_the_data() -> None:
    assert roots(placed(load_experiment(PAPER), "s3://bucket/corpora/"))[0] == "s3://bucket/corpora/WenetSpeech"


def test_models_are_downloaded_into_the_data_where_a_folder_waits_for_them(tmp_path: Path) -> None:
    paper = load_experiment(PAPER)
    assert placed(paper, str(tmp_path)).transcribe.downloads == ""
    (tmp_path / "models").mkdir()
    moved = placed(paper, str(tmp_path))
    assert moved.transcribe.downloads == f"{tmp_path}/models"
    assert moved.evaluate.recogniser().downloads == f"{tmp_path}/models"  # type: ignore[union-attr]
    assert not any(setting.changes_output for setting in settings_of(moved) if setting.key.endswith(".downloads"))


def test_a_home_folder_that_does_not_exist_is_named() -> None:
    with pytest.raises(UserError, match=r"cluster\.data: ~nobody-at-all"):
        placed(ExperimentConfig(), "~nobody-at-all/data")
