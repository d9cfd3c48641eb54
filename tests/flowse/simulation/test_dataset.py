"""Laws of the summary of a dataset: it adds up to the mixtures of the shards, and is written as JSON."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from flowse.data.parquet import write_rows
from flowse.data.shards import IndexRow, ShardWriter, write_index
from flowse.errors import UserError
from flowse.simulation.dataset import DatasetSummary, summarise
from flowse.simulation.mixer import Mixer
from flowse.simulation.plans import Planner
from flowse.simulation.recipe import MixtureConfig, Recipe
from tests.dataset_summaries import dataset_summary, noise_use
from tests.flowse.simulation.recordings import BANK_RATE, Recordings, write_recordings

CONFIG = MixtureConfig(reverberation=1.0)


def _write_shard(recordings: Recordings, split: str) -> list[IndexRow]:
    """Write a shard, its index and its recipes from the library alone, without Ray."""
    planner = Planner(CONFIG, 1, recordings.sources)
    mixer = Mixer(recordings.roots, recordings.sources, sample_rate=BANK_RATE)
    recipes = []
    with ShardWriter(recordings.root / f"{split}.tar", f"{split}.tar") as shard:
        for row in recordings.speech:
            if row.split == split:
                recipe = planner.plan(row, 0).recipe
                assert recipe is not None
                shard.add(mixer.to_store(row, recipe, mixer.render(recipe, row)))
                recipes.append(recipe)
    rows = shard.close()
    write_index(recordings.root / f"{split}.index.parquet", rows)
    write_rows(recordings.root / f"{split}.recipes.parquet", Recipe, recipes)
    return rows


def _summarise(recordings: Recordings, splits: list[str]) -> DatasetSummary:
    return summarise(
        [recordings.root / f"{split}.index.parquet" for split in splits],
        [recordings.root / f"{split}.recipes.parquet" for split in splits],
        recordings.sources,
        digest="d",
        seed=1,
        sample_rate=BANK_RATE,
        mixture=CONFIG,
    )


def test_the_summary_adds_up_to_the_shards(tmp_path: Path) -> None:
    recordings = write_recordings(tmp_path)
    rows = {split: _write_shard(recordings, split) for split in ("train", "test")}
    summary = _summarise(recordings, ["train", "test"])
    assert list(summary.splits) == ["train", "test"]
    for split, about in summary.splits.items():
        assert (about.mixtures, about.shards) == (len(rows[split]), 1)
        assert about.hours * 3600 == pytest.approx(sum(row.seconds for row in rows[split]), abs=1e-3)
    assert summary.mixtures == len(recordings.speech)
    assert summary.hours == pytest.approx(sum(about.hours for about in summary.splits.values()))
    assert (summary.speech["speech"].licences, summary.speech["speech"].languages) == (["CC0-1.0"], ["en"])
    assert (summary.noise["noise"].recordings, summary.rooms["simulated"].recordings) == (6, 6)
    assert summary.licences is not None
    assert {use.use for use in summary.licences} == {"speech", "noise", "room"}
    summary.write(tmp_path / "dataset.json")
    written = json.loads((tmp_path / "dataset.json").read_text())
    assert list(written)[:4] == ["digest", "seed", "sample_rate", "target"]
    assert written["splits"]["train"] == {"mixtures": 6, "shards": 1, "hours": summary.splits["train"].hours}


def test_splits_without_mixtures_are_left_out(tmp_path: Path) -> None:
    recordings = write_recordings(tmp_path)
    _write_shard(recordings, "test")
    assert list(_summarise(recordings, ["test"]).splits) == ["test"]
    assert _summarise(recordings, []).mixtures == 0


def test_a_summary_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "dataset.json"
    for summary in (dataset_summary(), dataset_summary(licences=[noise_use()])):
        summary.write(path)
        assert DatasetSummary.read(path) == summary


def test_a_summary_without_licences_is_read(tmp_path: Path) -> None:
    path = tmp_path / "dataset.json"
    dataset_summary().write(path)
    path.write_text(
        json.dumps({key: value for key, value in json.loads(path.read_text()).items() if key != "licences"})
    )
    assert DatasetSummary.read(path) == dataset_summary(licences=None)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (None, "No such file"),
        ('{"digest": "a', "Unterminated string"),
        ("{}", "digest is missing"),
        ('{"digest": 5}', "seed is missing"),
    ],
)
def test_another_file_is_refused_with_what_to_do(tmp_path: Path, text: str | None, reason: str) -> None:
    path = tmp_path / "dataset.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match=rf"dataset\.json: not the summary.*{reason}.*run simulate again with --force"):
        DatasetSummary.read(path)
